// Robust statistics of the last few values of a series.
#pragma once

#include <span>
#include <vector>

namespace train_sft {

double median(std::vector<double> values);  // of at least one value
double mean(std::span<const double> values);
// Of the mean of values that vary independently.
double standard_error(std::span<const double> values);

}  // namespace train_sft

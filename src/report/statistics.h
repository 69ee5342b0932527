// Robust statistics of the last few values of a series.
#pragma once

#include <span>
#include <vector>

namespace train_sft {

double median(std::vector<double> values);  // of at least one value
double mean(std::span<const double> values);
// Of the mean of values that vary independently.
double standard_error(std::span<const double> values);

// Of several values: their mean and its standard error.
struct Level {
  double mean = 0, error = 0;
};

// Values one after another, and the level of any range of them in logarithmic time: moments of
// blocks of 1, 2, 4, … values, put together as Chan, Golub and LeVeque 1979 have it, so that one
// huge value costs its neighbours no digits.
class LevelOfRanges {
 public:
  void add(double value);
  size_t size() const { return blocks_[0].size(); }
  // Of `count` ≥ 1 values from number `first` on.
  Level level(size_t first, size_t count) const;

 private:
  struct Moments {
    double count = 0, mean = 0, squares = 0;  // squares: of what stands above and below the mean
    Moments operator+(const Moments& other) const;
  };
  std::vector<std::vector<Moments>> blocks_{1};  // [k][i]: of the values [i 2^k, (i + 1) 2^k)
};

}  // namespace train_sft

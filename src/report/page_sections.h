// The sections of a run's page, each as HTML; "" when the run's files have nothing for it.
#pragma once

#include <span>
#include <string>

#include "train_sft/report/run_files.h"

namespace train_sft::page {

std::string signs(const RunFiles& run);
std::string data(const RunFiles& run);
std::string samples(const RunFiles& run);
std::string settings(const RunFiles& run);
std::string environment(const RunFiles& run);
std::string checkpoints(const RunFiles& run);
// Of several runs: results beside each other and the settings in which they differ.
std::string comparison(std::span<const RunFiles> runs);

}  // namespace train_sft::page

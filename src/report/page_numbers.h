// The numbers behind the curves of the page.
#pragma once

#include <span>
#include <string>

#include "train_sft/base/json.h"
#include "train_sft/report/run_files.h"

namespace train_sft {

// {"runs": [{"name", "train": {"step": […], …}, "evaluations", "named", "signs"}]}: what charts.js
// reads. Long runs are thinned to the extremes of equal stretches: no spike is lost.
Json page_numbers(std::span<const RunFiles> runs);

// Which records to keep so that about `most` remain: of each stretch the first, the lowest
// and the highest; and the last of all.
std::vector<size_t> thinned(std::span<const Record> records, size_t most);

}  // namespace train_sft

// Files of JSON lines that carry a step: metrics.jsonl, samples.jsonl.
#pragma once

#include <cstdint>
#include <string>

namespace train_sft {

// Cuts the file before its first line that is torn, is not JSON or has a step beyond `step`, so
// that a resumed run writes each step once. Nothing to do when the file is not there.
void cut_step_lines(const std::string& path, int64_t step);

}  // namespace train_sft

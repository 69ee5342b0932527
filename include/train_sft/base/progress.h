// A progress bar on stderr when it is a terminal; nothing otherwise. Log lines printed meanwhile
// appear above it.
#pragma once

#include <cstdint>
#include <string>

namespace train_sft {

class ProgressBar {
 public:
  ProgressBar(std::string label, uint64_t total);
  ~ProgressBar();  // clears the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  // Redraws at most ten times a second. `suffix` is shown after the bar ("loss 2.31 · 17k tok/s").
  void update(uint64_t done, const std::string& suffix = {});

 private:
  std::string label_;
  uint64_t total_;
  int64_t started_ns_;
  int64_t drawn_ns_ = 0;
  bool enabled_;
};

bool stderr_is_terminal();
std::string human_bytes(double bytes);       // "1.2 GB" (powers of 1000)
std::string human_count(double count);       // "12.6M"
std::string human_duration(double seconds);  // "2 h 05 min"

}  // namespace train_sft

// How fast tokens come while text is generated.
#pragma once

#include <chrono>
#include <cstdint>

#include "train_sft/base/json.h"

namespace train_sft::cli {

class TokenRate {
 public:
  void token() {
    last_ = std::chrono::steady_clock::now();
    if (tokens_++ == 0) first_ = last_;
  }
  // Tokens a second after the first, which waits for the prompt to be read; null for fewer than two.
  Json per_second() const {
    if (tokens_ < 2) return {};
    const std::chrono::duration<double> spent = last_ - first_;
    return static_cast<double>(tokens_ - 1) / spent.count();
  }

 private:
  int64_t tokens_ = 0;
  std::chrono::steady_clock::time_point first_, last_;
};

}  // namespace train_sft::cli

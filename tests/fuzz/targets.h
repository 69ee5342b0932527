// The readers of foreign bytes, each as a function of bytes alone: for libFuzzer (fuzz_main.cpp,
// scripts/fuzz.sh) and for the ordinary test that replays seeds and former findings
// (replay_test.cpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

struct FuzzTarget {
  const char* name;
  // Reads the bytes as a file of its kind. Errors of the data are thrown as elsewhere.
  void (*read)(std::string_view bytes);
  // Small files that are valid.
  std::vector<std::string> (*seeds)();
};

const std::vector<FuzzTarget>& fuzz_targets();

// What a reader may do with any bytes at all: return, or throw an Error that is not a bug's.
// Everything else leaves this function as an exception.
void read_any_bytes(const FuzzTarget& target, std::string_view bytes);

}  // namespace train_sft

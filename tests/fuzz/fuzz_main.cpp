// libFuzzer's entry; TRAIN_SFT_FUZZ_TARGET names the reader. See scripts/fuzz.sh.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fuzz/targets.h"

namespace {

const train_sft::FuzzTarget& chosen_target() {
  const char* name = std::getenv("TRAIN_SFT_FUZZ_TARGET");
  for (const auto& target : train_sft::fuzz_targets())
    if (name != nullptr && std::strcmp(name, target.name) == 0) return target;
  std::fprintf(stderr, "TRAIN_SFT_FUZZ_TARGET must be one of:");
  for (const auto& target : train_sft::fuzz_targets()) std::fprintf(stderr, " %s", target.name);
  std::fprintf(stderr, "\n");
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const train_sft::FuzzTarget& target = chosen_target();
  train_sft::read_any_bytes(target, {reinterpret_cast<const char*>(data), size});
  return 0;
}

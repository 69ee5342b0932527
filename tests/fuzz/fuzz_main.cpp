// libFuzzer's entry; TRAIN_SFT_FUZZ_TARGET names the reader. See scripts/fuzz.sh.
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

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

// Of a processor; libFuzzer's own limit is one of the clock, which goes on while the fuzzer is
// stopped or waits for a busy machine.
constexpr int kMostSecondsForAnInput = 20;

void too_slow(int) {
  constexpr std::string_view kSaid = "\nThis input keeps the reader busy: a finding.\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kSaid.data(), kSaid.size());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  signal(SIGPROF, too_slow);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const train_sft::FuzzTarget& target = chosen_target();
  const itimerval limit{{}, {kMostSecondsForAnInput, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  train_sft::read_any_bytes(target, {reinterpret_cast<const char*>(data), size});
  return 0;
}

// Says which file the disk does not answer for. Nothing interrupts a call to a disk that fails or
// to a file system whose network is gone, so another thread speaks for the one that hangs in it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace train_sft::disk_wait {

// A call that takes longer is said in the log as a warning, again when it has taken twice as long,
// and so on; and when it has come back.
inline constexpr std::chrono::seconds kPatience{30};  // unless set
void set_patience(std::chrono::milliseconds patience);

// Lives as long as the call: "fsync", "rename". Not for what the log itself writes.
class Call {
 public:
  Call(const char* call, const std::string& path);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  uint64_t number_;
};

// The oldest call of this process that was said and has not come back: "fsync of
// out/.saving_step_00000003/model.safetensors since 2026-11-22 12:01:33". Empty: none.
std::string overdue();

}  // namespace train_sft::disk_wait

// The last resort against waiting for ever: ends the process when what is watched neither ends nor
// fails in time. c10d's own timeouts come first; this is for when they do not.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace train_sft {

class Watchdog {
 public:
  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // After so long, unless rest() comes before: says `message` and ends the process, code 5.
  void watch(std::chrono::milliseconds limit, std::string message);
  void extend(std::chrono::milliseconds limit);  // so long from now
  void rest();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  bool leaving_ = false, watching_ = false;
  std::chrono::steady_clock::time_point deadline_;
  std::string message_;
  std::thread thread_;
};

}  // namespace train_sft

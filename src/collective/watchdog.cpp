#include "collective/watchdog.h"

#include <unistd.h>

#include <utility>

#include "base/without_signals.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"

namespace train_sft {

Watchdog::Watchdog() : thread_(start_without_signals([this] { run(); })) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::watch(std::chrono::milliseconds limit, std::string message) {
  {
    const std::lock_guard lock(mutex_);
    deadline_ = std::chrono::steady_clock::now() + limit;
    message_ = std::move(message);
    watching_ = true;
  }
  changed_.notify_one();
}

void Watchdog::extend(std::chrono::milliseconds limit) {
  const std::lock_guard lock(mutex_);
  deadline_ = std::chrono::steady_clock::now() + limit;
}

void Watchdog::rest() {
  const std::lock_guard lock(mutex_);
  watching_ = false;
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!leaving_) {
    if (!watching_) {
      changed_.wait(lock);
      continue;
    }
    changed_.wait_until(lock, deadline_);
    if (leaving_ || !watching_ || std::chrono::steady_clock::now() < deadline_) continue;
    log::error("{}", message_);
    _exit(static_cast<int>(ExitCode::resource));
  }
}

}  // namespace train_sft

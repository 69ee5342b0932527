#include "train_sft/base/signals.h"

#include <atomic>
#include <csignal>

namespace train_sft::signals {
namespace {

std::atomic<int> stop_signal{0};
std::atomic<bool> save_request{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "handlers may only touch lock-free atomics");

void on_stop(int number) {
  if (stop_signal.exchange(number) != 0 && number == SIGINT) {
    // The second Ctrl-C: as if we had never handled it.
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

void on_save(int) {
  save_request.store(true);
}

void handle(int number, void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

void install() {
  // Without SA_RESTART a blocked read (chat waiting for a line) returns and can see the flag.
  handle(SIGINT, on_stop, 0);
  handle(SIGTERM, on_stop, 0);
  handle(SIGUSR1, on_save, SA_RESTART);
  // A reader that went away (| head) shows as a failed write, not as a silent death while saving.
  handle(SIGPIPE, SIG_IGN, 0);
}

bool stop_requested() {
  return stop_signal.load(std::memory_order_relaxed) != 0;
}

ExitCode stop_code() {
  switch (stop_signal.load()) {
    case 0:
      return ExitCode::ok;
    case SIGTERM:
      return ExitCode::terminated;
    default:
      return ExitCode::interrupted;
  }
}

void clear_stop() {
  stop_signal.store(0);
}

bool take_save_request() {
  return save_request.exchange(false);
}

void throw_if_stopped() {
  if (!stop_requested()) return;
  throw Error(stop_code(),
              stop_code() == ExitCode::terminated ? "stopped by SIGTERM" : "stopped by Ctrl-C");
}

}  // namespace train_sft::signals

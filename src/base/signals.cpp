#include "train_sft/base/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string_view>

namespace train_sft::signals {
namespace {

std::atomic<int> stop_signal{0};
std::atomic<bool> save_request{false};
std::atomic<unsigned> seconds_to_leave{0};  // of the ExitDeadline in force; 0: none
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "handlers may only touch lock-free atomics");

void on_stop(int number) {
  if (stop_signal.exchange(number) != 0 && number == SIGINT) {
    // The second Ctrl-C: as if we had never handled it.
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
  if (const unsigned seconds = seconds_to_leave.load()) alarm(seconds);
}

// What was going on did not look at the flag in time, and leaves nothing half done behind.
void on_deadline(int) {
  constexpr std::string_view kSaid = "error: stopped by a signal\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kSaid.data(), kSaid.size());
  _exit(static_cast<int>(stop_code()));
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
  // A terminal that is closed stops a run like SIGTERM does, unless nohup said otherwise.
  struct sigaction before {};
  if (sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) {
    handle(SIGHUP, on_stop, 0);
  }
  // Without SA_RESTART a blocked read (chat waiting for a line) returns and can see the flag.
  handle(SIGINT, on_stop, 0);
  handle(SIGTERM, on_stop, 0);
  handle(SIGUSR1, on_save, SA_RESTART);
  handle(SIGALRM, on_deadline, 0);
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
    case SIGHUP:
      return ExitCode::terminated;
    default:
      return ExitCode::interrupted;
  }
}

void clear_stop() {
  alarm(0);
  stop_signal.store(0);
}

ExitDeadline::ExitDeadline(unsigned seconds) : before_(seconds_to_leave.exchange(seconds)) {
  if (stop_requested()) alarm(seconds);
}

ExitDeadline::~ExitDeadline() {
  seconds_to_leave.store(before_);
  if (before_ == 0) alarm(0);
}

bool take_save_request() {
  return save_request.exchange(false);
}

void throw_if_stopped() {
  if (!stop_requested()) return;
  const int number = stop_signal.load();
  throw Error(stop_code(), number == SIGTERM  ? "stopped by SIGTERM"
                           : number == SIGHUP ? "stopped by SIGHUP: its terminal was closed"
                                              : "stopped by Ctrl-C");
}

}  // namespace train_sft::signals

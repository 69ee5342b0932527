// Threads that take no signal: those go to the training thread, whose blocking calls they shall
// interrupt.
#pragma once

#include <signal.h>

#include <functional>
#include <thread>
#include <utility>

namespace train_sft {

inline std::thread start_without_signals(std::function<void()> work) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(work));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace train_sft

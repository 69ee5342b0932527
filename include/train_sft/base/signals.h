// SIGINT, SIGTERM and SIGHUP (unless nohup has it ignored) ask the program to finish its micro-step,
// save and leave; a second SIGINT ends it at once. SIGUSR1 asks for a checkpoint. Handlers only set
// flags.
#pragma once

#include "train_sft/base/error.h"

namespace train_sft::signals {

void install();
bool stop_requested();
// interrupted (SIGINT) or terminated (SIGTERM, SIGHUP); ok when no stop was asked for.
ExitCode stop_code();
// Forgets a stop that was dealt with (chat: Ctrl-C ends a reply, not the program).
void clear_stop();
// True once for each SIGUSR1.
bool take_save_request();
// Throws Error(stop_code()) when a stop was asked for: for long work outside training.
void throw_if_stopped();

// For work that a kill leaves nothing half done of, and of which not every part looks at
// stop_requested() (training a tokenizer, reading a large file): while one is alive, a stop ends the
// process with 130 or 143 after at most so many seconds, whatever it is doing.
class ExitDeadline {
 public:
  explicit ExitDeadline(unsigned seconds = 2);
  ~ExitDeadline();
  ExitDeadline(const ExitDeadline&) = delete;
  ExitDeadline& operator=(const ExitDeadline&) = delete;

 private:
  unsigned before_;
};

}  // namespace train_sft::signals

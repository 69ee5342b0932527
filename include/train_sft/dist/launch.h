// Starts copies of the program on this machine and looks after them until all have ended
// (--procs N): each is told its place by torchrun's variables (dist/environment.h).
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "train_sft/base/error.h"

namespace train_sft {

struct Launch {
  std::string program;             // a path
  std::vector<std::string> words;  // its arguments
  int processes = 1;
  bool keep_stdout = false;  // rank 0's output comes back in the result instead of going to stdout
  // From the SIGTERM that those get who outlive a failure to their SIGKILL.
  std::chrono::milliseconds grace{10'000};
};

struct LaunchResult {
  // The first failing process's (128 + its signal if one killed it), else the stop's: 130 or 143;
  // 0: all did their work.
  int exit_code = 0;
  std::string failure;  // in words, with the rank and its last lines; "": none
  std::string output;   // with keep_stdout
};

// Rank 0's stdout and stderr are this process's own, so that a progress bar works; what the others
// write to stderr comes line by line after "[rank N] ", their stdout is dropped. SIGINT, SIGTERM,
// SIGHUP and SIGUSR1 are passed on to all; a second SIGINT kills them. Once one has failed the
// others get SIGTERM, and SIGKILL after the grace. The children have process groups of their own,
// so that a Ctrl-C reaches them once, and die with this process, whatever ends it
// (PR_SET_PDEATHSIG: call it from the main thread). Throws ResourceError when a process cannot be
// started; none is left then.
LaunchResult launch(const Launch& launch);

// This process's program, to be started again.
std::string program_path();
// A port on 127.0.0.1 that nothing listens on, below those that connections take by themselves
// (one of which might otherwise connect to itself while rank 0 does not listen yet).
int free_port();

}  // namespace train_sft

// Training in several processes that this one starts (--procs N, --gpus N).
#pragma once

#include <optional>

#include "cli/command_line.h"

namespace train_sft::cli {

// How many processes a start with these settings has on this machine, where no launcher starts
// them: --procs, on CPUs, or one for each of the GPUs here that --gpus N can be dealt out to
// evenly. Throws UsageError where a GPU is asked for and there is none.
int64_t processes_of_start(const Settings& settings);

// Starts the command line again in so many processes and waits for them; what it returns is
// the run's outcome. None: this process trains itself, as the only one or as one of those that it
// or another launcher started. Throws UsageError for --procs under another launcher, and Error with
// the code of the process that failed first.
std::optional<Outcome> run_processes(const Invocation& invocation);

}  // namespace train_sft::cli

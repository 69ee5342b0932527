// Training in several processes that this one starts (--procs N).
#pragma once

#include <optional>

#include "cli/command_line.h"

namespace train_sft::cli {

// Starts the command line again in config.procs processes and waits for them; what it returns is
// the run's outcome. None: this process trains itself, as the only one or as one of those that it
// or another launcher started. Throws UsageError for --procs under another launcher, and Error with
// the code of the process that failed first.
std::optional<Outcome> run_processes(const Invocation& invocation);

}  // namespace train_sft::cli

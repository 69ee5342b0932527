// One declaration a subcommand; each is defined in cmd_<name>.cpp.
#pragma once

#include "cli/command_line.h"

namespace train_sft::cli {

Command train_command();
Command plan_command();
Command prepare_command();
Command eval_command();
Command generate_command();
Command chat_command();
Command inspect_command();
Command import_command();
Command export_command();
Command report_command();
Command watch_command();
Command options_command();
Command version_command();

}  // namespace train_sft::cli

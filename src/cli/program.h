// The program: finds the command, runs it, and turns whatever happens into a message and an exit
// code.
#pragma once

#include <string>
#include <vector>

#include "cli/command_line.h"

namespace train_sft::cli {

// All commands, the default one first.
const std::vector<Command>& commands();

// `words` are the arguments after the program's name. Returns the exit code; throws nothing.
int run_program(const std::vector<std::string>& words);

}  // namespace train_sft::cli

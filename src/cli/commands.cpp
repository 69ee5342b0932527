#include "cli/commands.h"

#include "cli/program.h"

namespace train_sft::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> all{version_command()};
  return all;
}

}  // namespace train_sft::cli

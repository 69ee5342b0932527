#include "cli/commands.h"

#include "cli/program.h"

namespace train_sft::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> all{
      train_command(), plan_command(),    prepare_command(), eval_command(),    generate_command(),
      chat_command(),  import_command(),  export_command(),  inspect_command(), report_command(),
      watch_command(), options_command(), version_command(),
  };
  return all;
}

}  // namespace train_sft::cli

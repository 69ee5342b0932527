#include "cli/commands.h"
#include "train_sft/base/log.h"

namespace train_sft::cli {
namespace {

Outcome run_version(const Invocation& invocation) {
  if (!invocation.settings.config.json) fmt::print("train_sft {}\n", TRAIN_SFT_VERSION);
  return {ExitCode::ok, {{"version", TRAIN_SFT_VERSION}}};
}

}  // namespace

Command version_command() {
  Command command;
  command.name = "version";
  command.summary = "Prints the version.";
  command.examples = {"train_sft version"};
  command.run = run_version;
  return command;
}

}  // namespace train_sft::cli

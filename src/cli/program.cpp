#include "cli/program.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"
#include "train_sft/dist/environment.h"

namespace train_sft::cli {
namespace {

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Before anything is parsed: an error in the arguments must be reported as asked for, too.
bool wants_json(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--json=true") return true;
    if (words[i] == "--json") return i + 1 == words.size() || words[i + 1] != "false";
  }
  return false;
}

Surroundings surroundings() {
  try {
    return {place_from_environment(), ""};
  } catch (const UsageError& error) {
    return {std::nullopt, error.what()};
  }
}

// Of many processes that train together the first prints the result.
bool is_first_process(const Surroundings& surroundings) {
  return !surroundings.found || surroundings.found->rank == 0;
}

int report_failure(ExitCode code, const std::string& message, bool json) {
  if (code == ExitCode::bug) {
    log::error("{}\nThis is a bug in train_sft; please report it with the command line.", message);
  } else {
    log::error("{}", message);
  }
  const int number = static_cast<int>(code);
  if (json) print(dump_json({{"error", message}, {"exit_code", number}}));
  return number;
}

// LibTorch reports memory it cannot get as a general error; only its words tell.
bool is_out_of_memory(const std::string& what) {
  return what.find("can't allocate memory") != what.npos ||
         what.find("not enough memory") != what.npos || what.find("out of memory") != what.npos;
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (command.name == name) return command;
    names.push_back(command.name);
  }
  const std::string nearest = nearest_name(name, names);
  throw UsageError(
      "unknown command '{}'{}", name,
      nearest.empty() ? "; see train_sft --help" : fmt::format("; did you mean '{}'?", nearest));
}

int run_command(const std::vector<std::string>& words, const Surroundings& around, bool json) {
  const bool named = !words.empty() && !words[0].empty() && words[0][0] != '-';
  if (!named && std::find(words.begin(), words.end(), "--version") != words.end()) {
    return run_command({"version"}, around, json);
  }
  const Command& command = named ? find_command(words[0]) : commands().front();
  Invocation invocation =
      parse_command_line(command, {words.begin() + (named ? 1 : 0), words.end()});
  invocation.words = words;
  invocation.surroundings = around;
  if (invocation.help) {
    print(named ? help_text(command) : program_help(commands()));
    return 0;
  }
  const Outcome outcome = command.run(invocation);
  if (json) {
    Json result = outcome.result;
    result["exit_code"] = static_cast<int>(outcome.code);
    print(dump_json(result));
  }
  return static_cast<int>(outcome.code);
}

}  // namespace

int run_program(const std::vector<std::string>& words) {
  const Surroundings around = surroundings();
  const bool json = wants_json(words) && is_first_process(around);
  try {
    signals::install();
    return run_command(words, around, json);
  } catch (const Error& error) {
    return report_failure(error.code(), error.what(), json);
  } catch (const std::bad_alloc&) {
    return report_failure(ExitCode::resource,
                          "out of memory; try a smaller --batch_size (and a larger --grad_accum), "
                          "--block_size or model",
                          json);
  } catch (const std::exception& error) {
    if (is_out_of_memory(error.what())) {
      return report_failure(ExitCode::resource,
                            fmt::format("out of memory: {}; try a smaller --batch_size (and a "
                                        "larger --grad_accum), --block_size or model",
                                        error.what()),
                            json);
    }
    return report_failure(ExitCode::bug, error.what(), json);
  } catch (...) {
    return report_failure(ExitCode::bug, "an exception of unknown type", json);
  }
}

}  // namespace train_sft::cli

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "cli/commands.h"
#include "train_sft/base/file.h"
#include "train_sft/base/signals.h"
#include "train_sft/report/terminal.h"

namespace train_sft::cli {
namespace {

constexpr size_t kPlainRows = 40;

// Of the terminal on stdout; columns from $COLUMNS or 100 where there is none.
TerminalSize terminal_size() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    return {size.ws_col, size.ws_row};
  const char* columns = std::getenv("COLUMNS");
  const long width = columns == nullptr ? 0 : std::strtol(columns, nullptr, 10);
  return {width > 0 ? static_cast<size_t>(std::min(width, 1000L)) : 100, kPlainRows};
}

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string plain(const RunFiles& run) {
  std::string text;
  for (const std::string& line : terminal_view(run, terminal_size())) text += line + "\n";
  return text;
}

// The terminal's other screen while it lives: what was on it comes back.
struct AlternateScreen {
  AlternateScreen() { put("\x1b[?1049h\x1b[?25l"); }
  ~AlternateScreen() { put("\x1b[?25h\x1b[?1049l"); }
};

void draw(const RunFiles& run) {
  std::string text = "\x1b[H";
  for (const std::string& line : terminal_view(run, terminal_size())) {
    const bool warning = line.starts_with("! ");
    text += (warning ? "\x1b[33m" : "") + line + (warning ? "\x1b[0m" : "") + "\x1b[K\r\n";
  }
  put(text + "\x1b[J\x1b[2mCtrl-C leaves; the run goes on\x1b[0m");
}

// Until the run ends or a person does.
RunFiles follow(const std::string& directory, std::chrono::milliseconds interval) {
  RunFiles run = read_run(directory);
  const AlternateScreen screen;
  while (!signals::stop_requested()) {
    draw(run);
    if (!run.is_running) break;
    const auto wake = std::chrono::steady_clock::now() + interval;
    while (std::chrono::steady_clock::now() < wake && !signals::stop_requested())
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    run = read_run(directory);
  }
  signals::clear_stop();
  return run;
}

Outcome run_watch(const Invocation& invocation) {
  if (invocation.positionals.size() != 1)
    throw UsageError("watch takes one RUN: the out_dir of a training run");
  const std::string& directory = invocation.positionals[0];
  if (invocation.settings.config.json) return {ExitCode::ok, watch_json(read_run(directory))};
  const bool live = ::isatty(STDOUT_FILENO) == 1 && !invocation.value("once").get<bool>();
  const RunFiles last = live ? follow(directory, std::chrono::milliseconds(static_cast<int64_t>(
                                                     1000 * invocation.number("interval"))))
                             : read_run(directory);
  put(plain(last));
  return {};
}

}  // namespace

Command watch_command() {
  Command command;
  command.name = "watch";
  command.arguments = "RUN";
  command.summary = "Shows a run live in the terminal: curves, speed, memory, signs, last samples.";
  command.examples = {
      "train_sft watch checkpoints",
      "train_sft watch checkpoints --once",
      "train_sft watch checkpoints --json",
  };
  command.own_options = {
      own_option("once", "bool", false, "Print it once; so it is when stdout is not a terminal"),
      own_option("interval", "float", 1.0, "Seconds between looks", 0.1, 3600),
  };
  command.run = run_watch;
  return command;
}

}  // namespace train_sft::cli

// Log lines for people. They go to stderr (stdout is for results and --json) and, once a run has
// begun, to its training.log, which also gets the lines of level debug. The logger is the program's
// one global.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace train_sft::log {

enum class Level { debug, info, warning, error };

void set_level(Level level);
// Put in front of every line, to tell whose it is among those of several processes.
void set_prefix(const std::string& prefix);
// Adds a file that receives every line, with a timestamp; appended to and flushed line by line so
// that `tail -f` is useful. An empty path removes it.
void set_file(const std::string& path);
void write(Level level, std::string_view line);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace train_sft::log

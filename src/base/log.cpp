#include "train_sft/base/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>

#include "base/status_line.h"
#include "train_sft/base/file.h"

namespace train_sft::log {
namespace {

// Through our FileWriter, so that fault injection reaches the log as well. A log that cannot be
// written must not end a run: spdlog reports the exception on stderr and goes on.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(const std::string& path) : writer_(path, FileWriter::Mode::append) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t formatted;
    base_sink<std::mutex>::formatter_->format(message, formatted);
    writer_.write(std::string_view(formatted.data(), formatted.size()));
    writer_.flush();
  }
  void flush_() override { writer_.flush(); }

  FileWriter writer_;
};

struct Logger {
  std::mutex mutex;
  spdlog::logger terminal{"", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  std::unique_ptr<spdlog::logger> file;
  std::string prefix;

  Logger() { terminal.set_pattern("%v"); }
};

Logger& logger() {
  static Logger instance;
  return instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string_view prefix(Level level) {
  switch (level) {
    case Level::warning:
      return "warning: ";
    case Level::error:
      return "error: ";
    default:
      return "";
  }
}

}  // namespace

void set_level(Level level) {
  const std::lock_guard lock(logger().mutex);
  logger().terminal.set_level(to_spdlog(level));
}

void set_prefix(const std::string& prefix) {
  const std::lock_guard lock(logger().mutex);
  logger().prefix = prefix;
}

void set_file(const std::string& path) {
  const std::lock_guard lock(logger().mutex);
  logger().file.reset();
  if (path.empty()) return;
  logger().file =
      std::make_unique<spdlog::logger>("training.log", std::make_shared<FileSink>(path));
  logger().file->set_pattern("%Y-%m-%d %H:%M:%S %v");
  logger().file->set_level(spdlog::level::debug);
}

void write(Level level, std::string_view line) {
  const std::lock_guard lock(logger().mutex);
  const std::string text = logger().prefix + std::string(prefix(level)).append(line);
  status_line::write_above([&] { logger().terminal.log(to_spdlog(level), text); });
  if (logger().file) logger().file->log(to_spdlog(level), text);
}

}  // namespace train_sft::log

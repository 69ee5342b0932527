#include "train_sft/base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <utility>

#include "base/status_line.h"

namespace train_sft {
namespace status_line {
namespace {

std::mutex mutex;
std::string current;  // what is on the line now

void put(const std::string& line) {
  const std::string text = "\r\x1b[2K" + line;
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

void draw(const std::string& line) {
  const std::lock_guard lock(mutex);
  put(line);
  current = line;
}

void erase() {
  const std::lock_guard lock(mutex);
  if (!current.empty()) put("");
  current.clear();
}

void write_above(const std::function<void()>& write) {
  const std::lock_guard lock(mutex);
  if (!current.empty()) put("");
  write();
  if (!current.empty()) put(current);
}

}  // namespace status_line

namespace {

constexpr int64_t kRedrawNs = 100'000'000;

int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

// At most `columns` characters of UTF-8, so that the line never wraps (it could not be erased).
std::string clipped(const std::string& text, size_t columns) {
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (starts_character && characters++ == columns) return text.substr(0, i);
  }
  return text;
}

}  // namespace

bool stderr_is_terminal() {
  return ::isatty(STDERR_FILENO) == 1;
}

ProgressBar::ProgressBar(std::string label, uint64_t total)
    : label_(std::move(label)),
      total_(total),
      started_ns_(now_ns()),
      enabled_(stderr_is_terminal()) {}

ProgressBar::~ProgressBar() {
  if (enabled_) status_line::erase();
}

void ProgressBar::update(uint64_t done, const std::string& suffix) {
  if (!enabled_) return;
  const int64_t now = now_ns();
  if (done < total_ && now - drawn_ns_ < kRedrawNs) return;
  drawn_ns_ = now;
  const double fraction =
      total_ == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
  constexpr int width = 24;
  const int filled = static_cast<int>(fraction * width);
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < filled ? "━" : "─";
  const double elapsed = static_cast<double>(now - started_ns_) * 1e-9;
  std::string left;
  if (fraction > 0 && fraction < 1) {
    left = fmt::format(" · {} left", human_duration(elapsed * (1 - fraction) / fraction));
  }
  const std::string line = fmt::format("{} {} {}/{}{}{}{}", label_, bar, done, total_,
                                       suffix.empty() ? "" : " · ", suffix, left);
  status_line::draw(clipped(line, terminal_columns() - 1));
}

std::string human_bytes(double bytes) {
  static constexpr std::array<const char*, 6> units{"bytes", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 999.5 && unit + 1 < units.size()) {
    bytes /= 1000;
    ++unit;
  }
  const bool whole = unit == 0 || std::abs(bytes) >= 99.95;
  return whole ? fmt::format("{:.0f} {}", bytes, units[unit])
               : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string human_count(double count) {
  static constexpr std::array<const char*, 5> units{"", "k", "M", "B", "T"};
  size_t unit = 0;
  while (std::abs(count) >= 999.5 && unit + 1 < units.size()) {
    count /= 1000;
    ++unit;
  }
  const bool whole = (unit == 0 && count == std::floor(count)) || std::abs(count) >= 99.95;
  return whole ? fmt::format("{:.0f}{}", count, units[unit])
               : fmt::format("{:.1f}{}", count, units[unit]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1000);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  if (minutes < 48 * 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  return fmt::format("{} d {:02} h", minutes / 1440, minutes % 1440 / 60);
}

}  // namespace train_sft

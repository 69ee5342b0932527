#include "dist/last_lines.h"

#include <utility>

namespace train_sft {
namespace {

constexpr size_t kKept = 12;
constexpr size_t kLongest = 1 << 14;

}  // namespace

std::vector<std::string> LastLines::add(std::string_view bytes) {
  std::vector<std::string> lines;
  for (const char c : bytes) {
    if (c != '\n') partial_ += c;
    if (c == '\n' || partial_.size() >= kLongest) take(lines);
  }
  return lines;
}

std::vector<std::string> LastLines::finish() {
  std::vector<std::string> lines;
  if (!partial_.empty()) take(lines);
  return lines;
}

void LastLines::take(std::vector<std::string>& lines) {
  kept_.push_back(partial_);
  if (kept_.size() > kKept) kept_.pop_front();
  lines.push_back(std::exchange(partial_, {}));
}

std::string LastLines::text() const {
  std::string text;
  for (const std::string& line : kept_) text += (text.empty() ? "  " : "\n  ") + line;
  return text;
}

}  // namespace train_sft

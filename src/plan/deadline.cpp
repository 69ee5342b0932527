#include <chrono>
#include <ctime>

#include "train_sft/base/error.h"
#include "train_sft/plan/plan.h"

namespace train_sft {
namespace {

std::optional<double> duration(const std::string& text) {
  size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  if (used + 1 != text.size() || !(value >= 0)) return std::nullopt;
  switch (text[used]) {
    case 's':
      return value;
    case 'm':
      return value * 60;
    case 'h':
      return value * 3600;
    case 'd':
      return value * 86400;
    default:
      return std::nullopt;
  }
}

// "2026-12-01" or "2026-12-01 08:00" (or with a T between), local time → seconds from now.
std::optional<double> until(const std::string& text) {
  std::tm local{};
  const char* format =
      text.size() > 10 ? (text[10] == 'T' ? "%Y-%m-%dT%H:%M" : "%Y-%m-%d %H:%M") : "%Y-%m-%d";
  const char* end = ::strptime(text.c_str(), format, &local);
  if (end == nullptr || *end != '\0') return std::nullopt;
  local.tm_isdst = -1;
  return std::difftime(std::mktime(&local), std::time(nullptr));
}

}  // namespace

double parse_deadline(const std::string& text) {
  if (const auto seconds = duration(text)) return *seconds;
  if (const auto seconds = until(text)) return *seconds;
  throw UsageError(
      "deadline: '{}' is not valid, expected a duration (90m, 8h, 2d) or a time (2026-12-01 08:00)",
      text);
}

}  // namespace train_sft

#include <fmt/format.h>

#include <string>
#include <utility>

#include "train_sft/base/json.h"
#include "train_sft/data/dataset.h"

namespace train_sft {
namespace {

// 12645675 → "12,645,675".
std::string grouped(uint64_t value) {
  std::string digits = std::to_string(value);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::string describe(const DataReport& report) {
  std::string out =
      fmt::format("{} examples ({}), {} tokens, {} learned ({:.1f} %)\n", grouped(report.examples),
                  report.format, grouped(report.tokens), grouped(report.learned_tokens),
                  share(report.learned_tokens, report.tokens));
  if (report.rows > 0) {
    out += fmt::format("{} rows, {:.1f} % full", grouped(report.rows), 100.0 * report.fill);
    if (report.tail_tokens > 0)
      out += fmt::format(", {} tokens at the end left out", grouped(report.tail_tokens));
    out += '\n';
  }
  if (report.length_percentiles.size() == 7) {
    const auto& p = report.length_percentiles;
    out += fmt::format("lengths: {} to {} tokens, median {}, 5 % below {}, 95 % below {}\n",
                       grouped(p[0]), grouped(p[6]), grouped(p[3]), grouped(p[1]), grouped(p[5]));
  }
  if (report.duplicates > 0) {
    out += fmt::format("{} duplicates (kept)\n", grouped(report.duplicates));
  }
  if (report.truncated > 0) {
    out += fmt::format("{} examples truncated to block_size ({:.1f} %), {} tokens cut away\n",
                       grouped(report.truncated), share(report.truncated, report.examples),
                       grouped(report.truncated_tokens));
  }
  if (report.split_pieces > 0) {
    out += fmt::format("over-long examples split into {} pieces\n", grouped(report.split_pieces));
  }
  for (const auto& [reason, count] : report.dropped) {
    out += fmt::format("{} dropped: {}\n", grouped(count), reason);
  }
  return out;
}

Json to_json(const DataReport& report) {
  Json dropped = Json::object();
  for (const auto& [reason, count] : report.dropped) dropped[reason] = count;
  return {{"format", report.format},
          {"examples", report.examples},
          {"duplicates", report.duplicates},
          {"tokens", report.tokens},
          {"learned_tokens", report.learned_tokens},
          {"rows", report.rows},
          {"fill", report.fill},
          {"tail_tokens", report.tail_tokens},
          {"truncated", report.truncated},
          {"truncated_tokens", report.truncated_tokens},
          {"split_pieces", report.split_pieces},
          {"dropped", std::move(dropped)},
          {"length_percentiles", report.length_percentiles}};
}

DataReport data_report_from_json(const Json& json, const std::string& where) {
  const auto number = [&](const char* name) {
    return static_cast<uint64_t>(json_int(json, name, where));
  };
  DataReport report;
  report.format = json_string(json, "format", where);
  report.examples = number("examples");
  report.duplicates = number("duplicates");
  report.tokens = number("tokens");
  report.learned_tokens = number("learned_tokens");
  report.rows = number("rows");
  report.fill = json_number(json, "fill", where);
  report.tail_tokens = number("tail_tokens");
  report.truncated = number("truncated");
  report.truncated_tokens = number("truncated_tokens");
  report.split_pieces = number("split_pieces");
  for (const auto& [reason, count] : json.at("dropped").items()) {
    report.dropped[reason] = count.get<uint64_t>();
  }
  report.length_percentiles = json.at("length_percentiles").get<std::vector<uint64_t>>();
  return report;
}

}  // namespace train_sft

#include "json_records.h"

#include <algorithm>

#include "text_file.h"
#include "train_sft/base/error.h"
#include "train_sft/base/json_text.h"

namespace train_sft {
namespace {

size_t count_lines(std::string_view text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

class Scanner {
 public:
  Scanner(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  void skip_blank() { move_to(std::min(text_.find_first_not_of(kBlank, at_), text_.size())); }
  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return text_[at_]; }
  void skip_one() { move_to(at_ + 1); }
  size_t line() const { return line_; }

  // One value from here on: a bracketed one to its closing bracket, another to what ends it.
  JsonRecord value() {
    const size_t begin = at_;
    JsonRecord record{{}, line_};
    const size_t end = value_end(begin);
    if (end == std::string_view::npos) {
      record.text = text_.substr(begin);
      parse_record(record, path_);  // names the place where the syntax breaks, if it does
      throw DataError("{}:{}: the file ends inside the record that begins here; is it cut short?",
                      path_, record.line);
    }
    record.text = text_.substr(begin, end - begin);
    move_to(end);
    return record;
  }

 private:
  size_t value_end(size_t i) const {
    if (text_[i] != '{' && text_[i] != '[') {
      const size_t end = text_.find_first_of(",]\n", i);
      return end == i ? i + 1 : end;
    }
    size_t end = std::string_view::npos;
    visit_brackets(text_.substr(i), [&](size_t at, int depth) {
      if (depth == 0) end = i + at + 1;
      return depth > 0;
    });
    return end;
  }
  void move_to(size_t to) {
    line_ += count_lines(text_.substr(at_, to - at_));
    at_ = to;
  }

  std::string_view text_;
  const std::string& path_;
  size_t at_ = 0;
  size_t line_ = 1;
};

std::vector<JsonRecord> array_elements(Scanner& scanner, const std::string& path, size_t most) {
  std::vector<JsonRecord> records;
  scanner.skip_one();
  scanner.skip_blank();
  if (!scanner.at_end() && scanner.peek() == ']') return records;
  while (records.size() < most) {
    scanner.skip_blank();
    if (scanner.at_end()) {
      throw DataError("{}:{}: the file ends inside its array, after {} records; is it cut short?",
                      path, scanner.line(), records.size());
    }
    records.push_back(scanner.value());
    scanner.skip_blank();
    const char after = scanner.at_end() ? '\0' : scanner.peek();
    if (after == '\0') {
      throw DataError("{}:{}: the file ends inside its array, after {} records; is it cut short?",
                      path, scanner.line(), records.size());
    }
    if (after != ',' && after != ']') {
      throw DataError("{}:{}: malformed JSON: expected ',' or ']' after record {}, found '{}'",
                      path, scanner.line(), records.size(), after);
    }
    scanner.skip_one();
    if (after == ',') continue;
    scanner.skip_blank();
    if (!scanner.at_end()) {
      throw DataError("{}:{}: malformed JSON: more text after the array's end", path,
                      scanner.line());
    }
    break;
  }
  return records;
}

std::vector<JsonRecord> lines(std::string_view text, size_t most, size_t line = 1) {
  std::vector<JsonRecord> records;
  for (size_t begin = 0; begin < text.size() && records.size() < most; ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view record = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t first = record.find_first_not_of(kBlank);
    if (first == std::string_view::npos) continue;
    record = record.substr(first, record.find_last_not_of(kBlank) - first + 1);
    records.push_back({record, line});
  }
  return records;
}

bool first_value_ends_on_its_line(std::string_view text) {
  const std::vector<JsonRecord> first = lines(text, 1);
  return !first.empty() && Json::accept(first[0].text);
}

void check_limits(const JsonRecord& record, const std::string& path) {
  if (record.text.size() > kLongestRecord) {
    throw DataError("{}:{}: a record of {} bytes; the longest allowed has {}", path, record.line,
                    record.text.size(), kLongestRecord);
  }
  visit_brackets(record.text, [&](size_t i, int depth) {
    if (depth <= kDeepestJson) return true;
    throw DataError("{}:{}: JSON nested deeper than {} levels", path,
                    record.line + count_lines(record.text.substr(0, i)), kDeepestJson);
  });
  if (const size_t i = too_many_members(record.text); i != std::string_view::npos) {
    throw DataError("{}:{}: a JSON object of more than {} members", path,
                    record.line + count_lines(record.text.substr(0, i)), kMostMembers);
  }
}

}  // namespace

std::vector<JsonRecord> json_records(std::string_view text, const std::string& path, size_t most) {
  Scanner scanner(text, path);
  scanner.skip_blank();
  if (scanner.at_end()) return {};
  if (scanner.peek() == '[') return array_elements(scanner, path, most);
  if (is_json_lines_path(path) || first_value_ends_on_its_line(text)) return lines(text, most);
  std::vector<JsonRecord> records;
  while (!scanner.at_end() && records.size() < most) {
    records.push_back(scanner.value());
    scanner.skip_blank();
  }
  return records;
}

std::vector<JsonRecord> json_lines(std::string_view text, size_t first_line) {
  return lines(text, std::string_view::npos, first_line);
}

Json parse_record(const JsonRecord& record, const std::string& path) {
  check_limits(record, path);
  try {
    return Json::parse(record.text.begin(), record.text.end());
  } catch (const Json::parse_error& error) {
    const size_t byte = std::min(error.byte > 0 ? error.byte - 1 : 0, record.text.size());
    const std::string_view before = record.text.substr(0, byte);
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? byte + 1 : byte - newline;
    if (byte >= record.text.size()) {
      throw DataError("{}:{}: malformed JSON: the record ends too early; is the file cut short?",
                      path, record.line + count_lines(before));
    }
    const std::string what = error.what();
    const size_t detail = what.find("syntax error");
    throw DataError("{}:{}: malformed JSON at column {}: {}", path,
                    record.line + count_lines(before), column,
                    detail == std::string::npos ? what : what.substr(detail));
  } catch (const Json::exception& error) {  // a number out of range
    throw DataError("{}:{}: malformed JSON: {}", path, record.line, error.what());
  }
}

}  // namespace train_sft

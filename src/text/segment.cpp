#include "segment.h"

#include <utility>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

bool is_upper_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

std::string regex_escaped(const std::string& text) {
  static constexpr std::string_view kMeta = "\\^$.|?*+()[]{}";
  std::string out;
  for (const char c : text) {
    if (kMeta.find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

Segmenter::Segmenter(std::vector<std::string> special_names) {
  for (std::string& name : special_names) {
    TRAIN_SFT_CHECK(name.size() > 1 && name[0] == '<', "special token '{}'", name);
    rests_.push_back(name.substr(1));
  }
}

bool Segmenter::special_rest_at(std::string_view text, size_t after_bracket) const {
  const std::string_view rest = text.substr(after_bracket);
  if (rest.size() >= 5 && rest.starts_with("0x") && is_upper_hex(rest[2]) &&
      is_upper_hex(rest[3]) && rest[4] == '>') {
    return true;
  }
  for (const std::string& name : rests_) {
    if (rest.starts_with(name)) return true;
  }
  return false;
}

size_t Segmenter::segment_end(std::string_view text, size_t begin) const {
  size_t i = begin;
  if (text[i] == '\n') {
    while (i < text.size() && text[i] == '\n') ++i;
    return i;
  }
  while (i < text.size() && text[i] == ' ') ++i;
  for (; i < text.size() && text[i] != ' ' && text[i] != '\n'; ++i) {
    if (text[i] == '<' && special_rest_at(text, i + 1)) return i + 1;
  }
  return i;
}

std::string Segmenter::regex() const {
  std::string names = "0x[0-9A-F]{2}>";
  for (const std::string& name : rests_) names += "|" + regex_escaped(name);
  const std::string word = " *(?:[^ \\n<]|<(?!" + names + "))+(?:<(?=" + names + "))?";
  return word + "| *<(?=" + names + ")| +|\\n+";
}

}  // namespace train_sft

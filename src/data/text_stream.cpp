#include "text_stream.h"

#include <algorithm>

#include "json_records.h"
#include "text_file.h"
#include "train_sft/base/error.h"
#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

constexpr size_t kStreamBlock = size_t{256} << 10;

void remove_carriage_returns(std::string& text) {
  size_t kept = text.find('\r');
  if (kept == std::string::npos) return;
  for (size_t i = kept; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    text[kept++] = text[i];
  }
  text.resize(kept);
}

}  // namespace

TextStream::TextStream(const std::string& path, bool plain_newlines)
    : path_(path), plain_newlines_(plain_newlines), file_(path) {}

// Leaves a character that the block cuts in carry_.
void TextStream::check_utf8(bool last) {
  const auto invalid = find_invalid_utf8(block_);
  if (!invalid) return;
  if (!last && block_.size() - *invalid < 4) {
    carry_ = block_.substr(*invalid);
    block_.resize(*invalid);
    return;
  }
  const auto lines =
      std::count(block_.begin(), block_.begin() + static_cast<std::ptrdiff_t>(*invalid), '\n');
  refuse_invalid_utf8(path_, head_, line_ + static_cast<uint64_t>(lines), offset_ + *invalid,
                      static_cast<unsigned char>(block_[*invalid]));
}

bool TextStream::read(std::string& out) {
  if (ended_) return false;
  block_ = std::exchange(carry_, {});
  const size_t left_over = block_.size();
  block_.resize(left_over + kStreamBlock);
  const auto fresh = std::as_writable_bytes(std::span(block_)).subspan(left_over);
  const size_t count = file_.read(fresh);
  block_.resize(left_over + count);
  ended_ = count < kStreamBlock;

  if (head_.empty()) head_ = block_.substr(0, 16);
  check_utf8(ended_);
  if (ended_) refuse_parquet(path_, head_, block_);
  if (plain_newlines_ && !ended_ && carry_.empty() && block_.ends_with('\r')) {
    carry_ = "\r";
    block_.pop_back();
  }
  offset_ += block_.size();
  line_ += static_cast<uint64_t>(std::count(block_.begin(), block_.end(), '\n'));
  if (!std::exchange(begun_, true) && block_.starts_with(kByteOrderMark)) {
    block_.erase(0, kByteOrderMark.size());
  }
  has_text_ = has_text_ || block_.find_first_not_of(kBlank) != std::string::npos;
  if (ended_ && !has_text_) throw DataError("{}: the file is empty", path_);
  if (plain_newlines_) remove_carriage_returns(block_);
  out += block_;
  return true;
}

std::string first_line_of_json_lines(const std::string& path) {
  if (!is_json_lines_path(path)) return {};
  TextStream stream(path, false);
  std::string text;
  size_t searched = 0;
  while (stream.read(text)) {
    const size_t begin = text.find_first_not_of(kBlank);
    if (begin == std::string::npos) {
      text.clear();
      continue;
    }
    if (text[begin] == '[') return {};
    const size_t end = text.find('\n', std::max(begin, searched));
    if (end != std::string::npos) return text.substr(0, end);
    searched = text.size();
    if (searched > kLongestRecord) break;  // refused by who parses it
  }
  return text;
}

}  // namespace train_sft

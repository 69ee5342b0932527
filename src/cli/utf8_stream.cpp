#include "cli/utf8_stream.h"

#include <algorithm>
#include <utility>

#include "train_sft/base/utf8.h"

namespace train_sft::cli {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// Length of text without a last character whose bytes have not all come.
size_t complete_length(std::string_view text) {
  const size_t looked_at = std::min<size_t>(text.size(), 3);
  for (size_t back = 1; back <= looked_at; ++back) {
    const char byte = text[text.size() - back];
    if (continues_character(byte)) continue;
    const bool incomplete = utf8_length(static_cast<unsigned char>(byte)) > back;
    return incomplete ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace

std::string well_formed(std::string_view text) {
  std::string out;
  while (const auto invalid = find_invalid_utf8(text)) {
    out += text.substr(0, *invalid);
    out += kReplacement;
    text.remove_prefix(*invalid + 1);
    // One sign for a broken character, not one for each of its bytes.
    while (!text.empty() && continues_character(text[0])) text.remove_prefix(1);
  }
  return out.append(text);
}

std::string Utf8Stream::push(std::string_view bytes) {
  kept_ += bytes;
  const size_t complete = complete_length(kept_);
  std::string shown = well_formed(std::string_view(kept_).substr(0, complete));
  kept_.erase(0, complete);
  return shown;
}

std::string Utf8Stream::finish() {
  return well_formed(std::exchange(kept_, ""));
}

}  // namespace train_sft::cli

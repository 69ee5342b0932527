#include "nfc.h"

#include <utf8proc.h>

#include <cstdlib>
#include <vector>

#include "train_sft/base/error.h"
#include "unicode_classes.h"

namespace train_sft {
namespace {

constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);

std::string composed(std::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &result, kOptions);
  TRAIN_SFT_CHECK(bytes >= 0, "utf8proc: {}", utf8proc_errmsg(bytes));
  std::string out(reinterpret_cast<const char*>(result), static_cast<size_t>(bytes));
  std::free(result);
  return out;
}

// Characters that stay as they are whatever stands beside them: starters that are their own
// decomposition's composition and that no composition takes as its second part. Text can be
// normalised apart on the two sides of each.
class Inert {
 public:
  static const Inert& get() {
    static const Inert inert;
    return inert;
  }
  bool operator[](uint32_t code) const { return inert_[code]; }

 private:
  Inert() : inert_(kCodes, true) {
    for (uint32_t code = 0; code < kCodes; ++code) {
      if (code >= 0xD800 && code < 0xE000) continue;
      const auto signed_code = static_cast<utf8proc_int32_t>(code);
      if (utf8proc_get_property(signed_code)->combining_class != 0) inert_[code] = false;
      utf8proc_int32_t parts[8];
      int last_boundary = 0;
      const auto count = utf8proc_decompose_char(signed_code, parts, 8, kDecompose, &last_boundary);
      if (count == 1 && parts[0] == signed_code) continue;
      inert_[code] = false;  // composes of several, or becomes another
      for (utf8proc_ssize_t i = 1; i < count; ++i) inert_[static_cast<size_t>(parts[i])] = false;
    }
  }
  std::vector<bool> inert_;
};

}  // namespace

std::string_view nfc(std::string_view text, std::string& storage) {
  const Inert& inert = Inert::get();
  size_t copied = 0;      // text up to here is in storage
  size_t last_inert = 0;  // where the last inert character begins
  storage.clear();
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      last_inert = at++;
      continue;
    }
    const Character c = character_at(text, at);
    if (inert[c.code]) {
      last_inert = at;
      at += c.bytes;
      continue;
    }
    // Normalise from the inert character before (which may compose with this one) to the next.
    size_t end = at + c.bytes;
    while (end < text.size()) {
      const Character next = character_at(text, end);
      if (inert[next.code]) break;
      end += next.bytes;
    }
    storage.append(text.substr(copied, last_inert - copied));
    storage += composed(text.substr(last_inert, end - last_inert));
    copied = end;
    last_inert = end;
    at = end;
  }
  if (copied == 0) return text;
  storage.append(text.substr(copied));
  return storage;
}

}  // namespace train_sft

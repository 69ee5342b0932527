#include "cli/byte_tokenizer.h"

#include "train_sft/base/error.h"

namespace train_sft::cli {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string ByteTokenizer::token_bytes(int32_t id) const {
  return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
}

int32_t ByteTokenizer::vocab_size() const {
  const std::lock_guard lock(mutex_);
  return 258 + static_cast<int32_t>(specials_.size());
}

std::optional<int32_t> ByteTokenizer::special_id(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = specials_.find(name);
  if (found != specials_.end()) return found->second;
  const int32_t id = 258 + static_cast<int32_t>(specials_.size());
  specials_.emplace(name, id);
  return id;
}

std::string ByteTokenizer::special_name(int32_t id) const {
  if (id == bos_id()) return "<s>";
  if (id == eos_id()) return "</s>";
  const std::lock_guard lock(mutex_);
  for (const auto& [name, special] : specials_) {
    if (special == id) return name;
  }
  return {};
}

void ByteTokenizer::save(const std::string&, const std::string&) const {
  TRAIN_SFT_CHECK(false, "a byte tokenizer is only for looking at data");
}

}  // namespace train_sft::cli

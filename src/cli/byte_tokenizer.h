// A token a byte, for looking at data before there is a tokenizer.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "train_sft/text/tokenizer.h"

namespace train_sft::cli {

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  std::string token_bytes(int32_t id) const override;
  int32_t vocab_size() const override;
  // Any name is a special token here: data can be rendered with every template.
  std::optional<int32_t> special_id(std::string_view name) const override;
  std::string special_name(int32_t id) const override;
  int32_t bos_id() const override { return 256; }
  int32_t eos_id() const override { return 257; }
  int32_t pad_id() const override { return -1; }
  std::string kind() const override { return "bytes"; }
  std::string fingerprint() const override { return "bytes"; }
  void save(const std::string& directory, const std::string& jinja) const override;

 private:
  mutable std::mutex mutex_;  // examples are rendered by several threads
  mutable std::map<std::string, int32_t, std::less<>> specials_;
};

}  // namespace train_sft::cli

#include <utility>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/text/bpe.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

constexpr uint64_t kMaxModelBytes = uint64_t{256} << 20;

std::unique_ptr<Tokenizer> from_tokenizer_json(const std::string& path) {
  return bpe_tokenizer(read_bpe_definition(path), path);
}

}  // namespace

size_t Tokenizer::safe_cut(std::string_view text, size_t limit) const {
  if (!splits_at_newlines()) return 0;
  for (size_t p = std::min(limit, text.size()); p > 0; --p) {
    if (p < text.size() && text[p - 1] == '\n' && text[p] != '\n') return p;
  }
  return 0;
}

bool holds_tokenizer(const std::string& directory) {
  return path_exists(join_path(directory, "tokenizer.model")) ||
         path_exists(join_path(directory, "tokenizer.json"));
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  if (!path_exists(path)) {
    throw DataError(
        "{}: no such tokenizer. Give a sentencepiece .model file, a tokenizer.json, or a directory "
        "with tokenizer.model or tokenizer.json.",
        path);
  }
  std::string file = path;
  if (is_directory(path)) {
    if (!holds_tokenizer(path)) {
      throw DataError("{}: neither tokenizer.model nor tokenizer.json in this directory", path);
    }
    file = join_path(path, "tokenizer.model");
    if (!path_exists(file)) file = join_path(path, "tokenizer.json");
  }
  if (file.ends_with(".json")) return from_tokenizer_json(file);
  return tokenizer_from_model(read_file(file, kMaxModelBytes), file);
}

}  // namespace train_sft

#include "added_tokens.h"

#include <algorithm>
#include <tuple>

#include "unicode_classes.h"

namespace train_sft {
namespace {

unsigned char first_byte(const AddedToken& token) {
  return static_cast<unsigned char>(token.content[0]);
}

bool is_space(std::string_view text, size_t at) {
  return CharClasses::get().of(character_at(text, at).code) == CharClass::space;
}

size_t spaces_before(std::string_view text, size_t end) {
  while (end > 0) {
    const size_t last = character_before(text, end);
    if (!is_space(text, last)) break;
    end = last;
  }
  return end;
}

size_t spaces_after(std::string_view text, size_t at) {
  while (at < text.size() && is_space(text, at)) at += character_at(text, at).bytes;
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens) : tokens_(tokens) {
  std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return std::tuple(first_byte(a), b.content.size(), a.content) <
           std::tuple(first_byte(b), a.content.size(), b.content);
  });
  first_of_.assign(257, 0);
  for (const AddedToken& token : tokens_) {
    ++first_of_[first_byte(token) + 1U];
    finds_plain_ = finds_plain_ || !token.special;
  }
  for (size_t i = 1; i < first_of_.size(); ++i) first_of_[i] += first_of_[i - 1];
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  const auto byte = static_cast<unsigned char>(text[at]);
  const std::string_view rest = text.substr(at);
  for (uint32_t i = first_of_[byte]; i < first_of_[byte + 1U]; ++i) {
    if (rest.starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::parts(std::string_view text,
                                                              bool specials) const {
  std::vector<Part> parts;
  size_t taken = 0;  // what stands before is in parts
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->special && !specials) continue;
    if (token->lstrip) begin = std::max(spaces_before(text, begin), taken);
    if (token->rstrip) end = spaces_after(text, end);
    if (begin > taken) parts.push_back({text.substr(taken, begin - taken), -1});
    parts.push_back({text.substr(begin, end - begin), token->id});
    taken = end;
  }
  if (taken < text.size()) parts.push_back({text.substr(taken), -1});
  return parts;
}

}  // namespace train_sft

// Text as commands take it from people and show it to them.
#pragma once

#include <cstdio>
#include <string>

namespace train_sft::cli {

// Without whitespace at both ends.
inline std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// At once: what a model says is read while it is said.
inline void show(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace train_sft::cli

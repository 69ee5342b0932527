// GPT-2's byte alphabet (bytes_to_unicode in encoder.py of openai/gpt-2): each byte one printable
// character, so that tokens of any bytes can be written in JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace train_sft {

// Bytes that a word in the alphabet stands for; nothing when a character is not of the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view word);
std::string to_byte_alphabet(std::string_view bytes);

}  // namespace train_sft

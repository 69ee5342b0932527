// Special tokens of tokenizers trained here, at the same ids in each of them: 0, 1, 2, …
#pragma once

#include <array>
#include <string_view>

namespace train_sft {

inline constexpr std::string_view kUnkName = "<unk>";  // never produced: bytes fall back to bytes
inline constexpr std::string_view kBosName = "<s>";
inline constexpr std::string_view kEosName = "</s>";
inline constexpr std::string_view kPadName = "<pad>";

// What the built-in chat templates place, from id 4 on.
inline constexpr std::array<std::string_view, 9> kChatSpecials = {
    "<|im_start|>",        "<|im_end|>",                       // chatml
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",  // llama3
    "<|user_start|>",      "<|user_end|>",                     // nanochat
    "<|assistant_start|>", "<|assistant_end|>",
};

}  // namespace train_sft

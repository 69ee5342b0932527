// The places of the model that drop out, as keys of the mask. A checkpointed run depends on them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace train_sft {

constexpr uint32_t kEmbeddingSite = 0;
constexpr uint32_t attention_site(size_t layer) {
  return static_cast<uint32_t>(1 + 2 * layer);
}
constexpr uint32_t ffn_site(size_t layer) {
  return static_cast<uint32_t>(2 + 2 * layer);
}

}  // namespace train_sft

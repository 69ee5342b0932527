#include "train_sft/config/model_config.h"

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

void require_positive(int64_t value, const char* option) {
  if (value < 1) throw UsageError("{}: {}, expected at least 1", option, value);
}

void validate_gpt2(const ModelConfig& config) {
  if (config.n_kv_head != 0 && config.n_kv_head != config.n_head) {
    throw UsageError(
        "n_kv_head: {}, but family gpt2 has no grouped-query attention; leave it out "
        "or use --family llama",
        config.n_kv_head);
  }
  if (config.head_size != 0 && config.head_size * config.n_head != config.n_embd) {
    throw UsageError(
        "head_size: {}, but in family gpt2 it is n_embd / n_head; leave it out or use --family "
        "llama",
        config.head_size);
  }
}

void validate_llama(const ModelConfig& config) {
  if (config.n_kv_head < 0 || config.n_head % config.kv_heads() != 0) {
    throw UsageError("n_kv_head: {} does not divide n_head {}", config.n_kv_head, config.n_head);
  }
  if (config.qk_norm && config.qkv_bias)
    throw UsageError("qk_norm and qkv_bias: no model of transformers has both; give one of them");
  if (config.head_size % 2 != 0) {
    throw UsageError("head_size: {} is odd, and rotary positions need an even one",
                     config.head_size);
  }
  if (config.head_dim() % 2 != 0) {
    throw UsageError(
        "n_embd / n_head: {} / {} = {} is odd, and rotary positions need an even head "
        "size; change n_embd or n_head",
        config.n_embd, config.n_head, config.head_dim());
  }
  if (!(config.rope_theta > 0)) {
    throw UsageError("rope_theta: {}, expected above 0", config.rope_theta);
  }
}

}  // namespace

int64_t ModelConfig::ffn() const {
  if (ffn_hidden > 0) return ffn_hidden;
  if (family == Family::gpt2) return 4 * n_embd;
  const int64_t two_thirds = (8 * n_embd + 2) / 3;
  return (two_thirds + 63) / 64 * 64;
}

Json shape_json(const ModelConfig& config) {
  return {{"family", config.family == Family::gpt2 ? "gpt2" : "llama"},
          {"n_layer", config.n_layer},
          {"n_head", config.n_head},
          {"n_kv_head", config.kv_heads()},
          {"n_embd", config.n_embd},
          {"head_size", config.head_dim()},
          {"ffn_hidden", config.ffn()},
          {"vocab_size", config.vocab_size},
          {"block_size", config.block_size},
          {"tie_embeddings", config.tie_embeddings}};
}

void validate(const ModelConfig& config) {
  require_positive(config.n_layer, "n_layer");
  require_positive(config.n_head, "n_head");
  require_positive(config.n_embd, "n_embd");
  require_positive(config.block_size, "block_size");
  require_positive(config.vocab_size, "vocab_size");
  if (config.ffn_hidden < 0)
    throw UsageError("ffn_hidden: {}, expected 0 or more", config.ffn_hidden);
  if (config.head_size < 0) throw UsageError("head_size: {}, expected 0 or more", config.head_size);
  if (config.head_size == 0 && config.n_embd % config.n_head != 0) {
    const int64_t down = config.n_embd / config.n_head * config.n_head;
    throw UsageError("n_embd: {} is not divisible by n_head {}; the nearest that are: {}{}",
                     config.n_embd, config.n_head, down > 0 ? fmt::format("{}, ", down) : "",
                     down + config.n_head);
  }
  if (!(config.norm_eps > 0)) throw UsageError("norm_eps: {}, expected above 0", config.norm_eps);
  // Token ids are 32-bit, and offsets into one matrix must not overflow.
  constexpr int64_t limit = int64_t{1} << 31;
  for (const int64_t size :
       {config.n_layer, config.n_embd, config.ffn(), config.vocab_size, config.block_size,
        config.n_head, config.head_dim(), config.attention_width()}) {
    if (size >= limit) throw UsageError("a model size of {} is beyond 2^31", size);
  }
  if (config.family == Family::gpt2) {
    validate_gpt2(config);
  } else {
    validate_llama(config);
  }
}

}  // namespace train_sft

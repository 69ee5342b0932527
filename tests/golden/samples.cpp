#include "golden/samples.h"

#include <algorithm>

#include "train_sft/base/rng.h"

namespace train_sft::samples {

std::vector<NamedConfig> configs() {
  ModelConfig gpt2;
  gpt2.family = Family::gpt2;
  gpt2.n_layer = 2;
  gpt2.n_head = 4;
  gpt2.n_embd = 32;
  gpt2.vocab_size = 61;
  gpt2.block_size = 24;
  ModelConfig llama = gpt2;
  llama.family = Family::llama;
  llama.ffn_hidden = 88;
  llama.n_layer = 3;

  std::vector<NamedConfig> all;
  const auto add = [&](const char* name, ModelConfig config, bool tied, int64_t kv_heads) {
    config.tie_embeddings = tied;
    config.n_kv_head = kv_heads;
    all.push_back({name, config});
  };
  add("gpt2_tied", gpt2, true, 0);
  add("gpt2_untied", gpt2, false, 0);
  add("llama_tied", llama, true, 0);
  add("llama_untied_two_kv_heads", llama, false, 2);
  llama.qkv_bias = true;
  add("qwen2_tied_one_kv_head", llama, true, 1);
  add("qwen2_untied", llama, false, 4);
  llama.qkv_bias = false;
  llama.qk_norm = true;
  add("qwen3_tied_two_kv_heads", llama, true, 2);
  llama.head_size = 18;  // more than n_embd / n_head
  add("qwen3_untied_wide_heads", llama, false, 1);
  return all;
}

void randomise(Parameters& parameters, uint64_t seed) {
  for (const ParameterInfo& info : parameters.layout().parameters) {
    const CounterRng rng(seed, hash_string(info.name));
    at::Tensor view = parameters.master(info.name).view({-1});
    const bool gain = info.shape.size() == 1 && info.name.ends_with(".weight");
    for (int64_t i = 0; i < info.numel; ++i) {
      const double normal = rng.normal(static_cast<uint64_t>(i));
      const double value = gain ? 1.0 + 0.2 * normal : 0.2 * normal;
      if (view.scalar_type() == at::kDouble)
        view.mutable_data_ptr<double>()[i] = value;
      else
        view.mutable_data_ptr<float>()[i] = static_cast<float>(value);
    }
  }
  parameters.refresh_compute();
}

Batch batch(const ModelConfig& config, const BatchOptions& options) {
  const CounterRng rng(options.seed, 77);
  const auto vocabulary = static_cast<uint64_t>(config.vocab_size);
  Batch batch;
  batch.cu_seqlens.push_back(0);
  for (size_t d = 0; d < options.lengths.size(); ++d) {
    const int length = options.lengths[d];
    for (int i = 0; i < length; ++i) {
      const auto n = static_cast<uint64_t>(batch.size());
      batch.tokens.push_back(static_cast<int32_t>(rng.bits(4 * n) % vocabulary));
      const bool learned = static_cast<int>(rng.bits(4 * n + 1) % 10) < options.learned_of_ten;
      batch.targets.push_back(static_cast<int32_t>(rng.bits(4 * n + 2) % vocabulary));
      batch.positions.push_back(i);
      if (!learned) continue;
      batch.learned.push_back(static_cast<int32_t>(n));
      if (options.weights)
        batch.weights.push_back(static_cast<float>(0.25 + 2 * rng.uniform(4 * n + 3)));
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.size()));
    batch.example_ids.push_back(options.first_example + d);
    batch.max_seqlen = std::max(batch.max_seqlen, length);
  }
  batch.rows = batch.documents();
  return batch;
}

namespace {

void append_document(const Batch& from, size_t d, Batch& to) {
  if (to.cu_seqlens.empty()) to.cu_seqlens.push_back(0);
  const int32_t begin = from.cu_seqlens[d];
  const int32_t end = from.cu_seqlens[d + 1];
  const auto shift = static_cast<int32_t>(to.size()) - begin;
  for (size_t i = 0; i < from.learned.size(); ++i) {
    if (from.learned[i] < begin || from.learned[i] >= end) continue;
    to.learned.push_back(from.learned[i] + shift);
    if (!from.weights.empty()) to.weights.push_back(from.weights[i]);
  }
  const auto copy = [&](const std::vector<int32_t>& source, std::vector<int32_t>& target) {
    target.insert(target.end(), source.begin() + begin, source.begin() + end);
  };
  copy(from.tokens, to.tokens);
  copy(from.targets, to.targets);
  copy(from.positions, to.positions);
  to.cu_seqlens.push_back(end + shift);
  to.example_ids.push_back(from.example_ids[d]);
  to.max_seqlen = std::max(to.max_seqlen, end - begin);
  to.rows += 1;
}

}  // namespace

Batch reordered(const Batch& batch, const std::vector<int64_t>& order) {
  Batch result;
  for (int64_t d : order) append_document(batch, static_cast<size_t>(d), result);
  return result;
}

Batch documents(const Batch& batch, int64_t first, int64_t last) {
  std::vector<int64_t> order;
  for (int64_t d = first; d < last; ++d) order.push_back(d);
  return reordered(batch, order);
}

Batch only_learning(const Batch& batch, int64_t d) {
  Batch result = batch;
  result.learned.clear();
  result.weights.clear();
  for (size_t i = 0; i < batch.learned.size(); ++i) {
    const int32_t n = batch.learned[i];
    if (n < batch.cu_seqlens[static_cast<size_t>(d)] ||
        n >= batch.cu_seqlens[static_cast<size_t>(d) + 1])
      continue;
    result.learned.push_back(n);
    if (!batch.weights.empty()) result.weights.push_back(batch.weights[i]);
  }
  return result;
}

}  // namespace train_sft::samples

#include "train_sft/ops/dropout.h"

#include "ops/dispatch.h"
#include "ops/dropout_hash.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

// input null: writes the factors themselves.
template <typename T>
void apply(T* out, const T* input, std::span<const uint64_t> row_keys, uint32_t site, double p,
           int64_t C) {
  using A = Accumulate<T>;
  const uint32_t threshold = dropout_threshold(p);
  const A scale = A(1 / (1 - p));
  for (size_t n = 0; n < row_keys.size(); ++n) {
    const DropoutSiteKey key = dropout_site_key(row_keys[n], site);
    for (int64_t c = 0; c < C; ++c) {
      const bool keep = dropout_bits(key, static_cast<uint32_t>(c)) >= threshold;
      const A x = input == nullptr ? A(1) : A(input[n * C + c]);
      out[n * C + c] = keep ? x * scale : A(0);
    }
  }
}

void check_probability(double p) {
  TRAIN_SFT_CHECK(p >= 0 && p < 1, "dropout probability {} outside [0, 1)", p);
}

}  // namespace

void dropout_row_keys(std::span<uint64_t> keys, uint64_t seed, uint64_t step,
                      std::span<const int32_t> cu_seqlens, std::span<const uint64_t> example_ids,
                      std::span<const int32_t> positions) {
  const profile::Scope scope("dropout");
  TRAIN_SFT_CHECK(cu_seqlens.size() == example_ids.size() + 1, "{} limits for {} documents",
                  cu_seqlens.size(), example_ids.size());
  const uint64_t base = mix_dropout_key(mix_dropout_key(seed + 0x64726F706F757421u) + step);
  for (size_t d = 0; d < example_ids.size(); ++d) {
    const uint64_t document = mix_dropout_key(base ^ mix_dropout_key(example_ids[d] + 1));
    for (int32_t n = cu_seqlens[d]; n < cu_seqlens[d + 1]; ++n) {
      keys[n] = mix_dropout_key(document + static_cast<uint64_t>(positions[n]) + 1);
    }
  }
}

void dropout(const at::Tensor& out, const at::Tensor& input, std::span<const uint64_t> row_keys,
             uint32_t site, double p) {
  const profile::Scope scope("dropout");
  check_probability(p);
  if (const DeviceTable* device = device_table(out))
    return device->dropout(out, input, row_keys.data(), site, p);
  const int64_t N = static_cast<int64_t>(row_keys.size()), C = columns_of(out);
  for_dtype(out.scalar_type(), [&]<typename T>() {
    T* y = data_of<T>(out, N * C);
    const T* x = data_of<T>(input, N * C);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->dropout(raw(y), raw(x), row_keys.data(), site, p, N, C);
      }
    }
    apply<T>(y, x, row_keys, site, p, C);
  });
}

void dropout_mask(const at::Tensor& mask, std::span<const uint64_t> row_keys, uint32_t site,
                  double p) {
  check_probability(p);
  const int64_t N = static_cast<int64_t>(row_keys.size()), C = columns_of(mask);
  for_dtype(mask.scalar_type(), [&]<typename T>() {
    apply<T>(data_of<T>(mask, N * C), nullptr, row_keys, site, p, C);
  });
}

}  // namespace train_sft::ops

#include "train_sft/ops/normal.h"

#include "ops/dispatch.h"
#include "ops/fast.h"

namespace train_sft::ops {

void normal(const at::Tensor& out, double deviation, const CounterRng& rng) {
  const int64_t count = out.numel();
  const auto fill = [&](auto* values) {
    for (int64_t i = 0; i < count; ++i)
      values[i] = static_cast<std::remove_pointer_t<decltype(values)>>(
          deviation * rng.normal(static_cast<uint64_t>(i)));
  };
  if (out.scalar_type() == at::kDouble) return fill(data_of<double>(out, count));
  auto* values = data_of<float>(out, count);
  if (const simd::Table* table = simd_table())
    return table->normal(values, count, deviation, {rng.seed(), rng.stream()});
  fill(values);
}

}  // namespace train_sft::ops

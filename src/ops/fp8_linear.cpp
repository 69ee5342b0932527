#include "train_sft/ops/fp8_linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/dispatch.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"

namespace train_sft::ops {
namespace {

// Not std::max: NaN must come through.
float larger(float a, float b) {
  return a > b || std::isnan(a) ? a : b;
}

template <typename T>
float largest_of(const T* x, int64_t count) {
  float amax = 0;
  for (int64_t i = 0; i < count; ++i) amax = larger(amax, std::fabs(static_cast<float>(x[i])));
  return amax;
}

// No one asks for 8 bits of double but tests of the emulation in float64's engine.
template <typename F>
void for_fp8_input(const at::Tensor& input, F&& f) {
  TRAIN_SFT_CHECK(input.is_contiguous(), "tensor is not contiguous");
  for_dtype(input.scalar_type(), f);
}

std::vector<float> dequantized(const Fp8Operand& operand) {
  const uint8_t* stored = operand.values.const_data_ptr<uint8_t>();
  std::vector<float> values(static_cast<size_t>(operand.values.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = fp8_value(stored[i], operand.format);
  return values;
}

template <typename Out>
void finish(Out* out, const std::vector<float>& sums, float scale, const at::Tensor& bias,
            int64_t N, bool accumulate) {
  std::vector<float> added(static_cast<size_t>(N));
  if (bias.defined()) {
    for_dtype(bias.scalar_type(), [&]<typename T>() {
      const T* b = data_of<T>(bias, N);
      for (int64_t n = 0; n < N; ++n) added[static_cast<size_t>(n)] = static_cast<float>(b[n]);
    });
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const float value = sums[i] * scale + added[i % static_cast<size_t>(N)];
    out[i] = static_cast<Out>(accumulate ? static_cast<float>(out[i]) + value : value);
  }
}

}  // namespace

void fp8_quantize(const at::Tensor& values, const at::Tensor& transposed, const at::Tensor& amax,
                  const at::Tensor& input, const at::Tensor& scale, Fp8Format format) {
  const profile::Scope scope("8-bit rounding");
  if (const DeviceTable* device = device_table(input))
    return device->fp8_quantize(values, transposed, amax, input, scale, format);
  const int64_t rows = rows_of(input), columns = columns_of(input);
  uint8_t* to = values.defined() ? data_of<uint8_t>(values, rows * columns) : nullptr;
  uint8_t* across = transposed.defined() ? data_of<uint8_t>(transposed, rows * columns) : nullptr;
  const float factor = *data_of<float>(scale, 1);
  for_fp8_input(input, [&]<typename T>() {
    const T* x = data_of<T>(input, rows * columns);
    if (float* most = data_or_null<float>(amax, 1))
      *most = larger(*most, largest_of(x, rows * columns));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const auto value = static_cast<float>(x[r * columns + c]);
        const uint8_t stored = fp8_round(value * factor, format);
        if (to != nullptr) to[r * columns + c] = stored;
        if (across != nullptr) across[c * rows + r] = stored;
      }
    }
  });
}

void fp8_amax(const at::Tensor& amax, const at::Tensor& input) {
  const profile::Scope scope("8-bit rounding");
  if (const DeviceTable* device = device_table(input)) return device->fp8_amax(amax, input);
  float* most = data_of<float>(amax, 1);
  for_fp8_input(input, [&]<typename T>() {
    *most = larger(*most, largest_of(data_of<T>(input, input.numel()), input.numel()));
  });
}

void fp8_update_scales(const at::Tensor& history, const at::Tensor& amax, const at::Tensor& scale,
                       const at::Tensor& scale_inverse, const at::Tensor& largest, double margin) {
  if (const DeviceTable* device = device_table(history))
    return device->fp8_update_scales(history, amax, scale, scale_inverse, largest, margin);
  const int64_t S = rows_of(history), H = columns_of(history);
  float *past = data_of<float>(history, S * H), *now = data_of<float>(amax, S);
  float *s = data_of<float>(scale, S), *inverse = data_of<float>(scale_inverse, S);
  const float* limit = data_of<float>(largest, S);
  for (int64_t i = 0; i < S; ++i, past += H) {
    std::copy(past + 1, past + H, past);
    past[H - 1] = std::isfinite(now[i]) ? now[i] : 0;
    now[i] = 0;
    s[i] = fp8_scale(*std::max_element(past, past + H), limit[i], static_cast<float>(margin), s[i]);
    inverse[i] = 1 / s[i];
  }
}

void fp8_matmul(const at::Tensor& out, const Fp8Operand& a, const Fp8Operand& b,
                const at::Tensor& bias, bool accumulate) {
  const profile::Scope scope("8-bit product");
  if (const DeviceTable* device = device_table(out))
    return device->fp8_matmul(out, a, b, bias, accumulate);
  const int64_t M = rows_of(a.values), N = rows_of(b.values), K = columns_of(a.values);
  TRAIN_SFT_CHECK(columns_of(b.values) == K && rows_of(out) == M && columns_of(out) == N,
                  "[{}, {}] of [{}, {}] and [{}, {}]", rows_of(out), columns_of(out), M, K, N,
                  columns_of(b.values));
  const std::vector<float> x = dequantized(a), y = dequantized(b);
  std::vector<float> sums(static_cast<size_t>(M * N));
  gemm<float, float>(sums.data(), N, {M, N, K}, {x.data(), K}, {y.data(), K, true}, nullptr, false);
  const float scale = *data_of<float>(a.scale_inverse, 1) * *data_of<float>(b.scale_inverse, 1);
  for_dtype(out.scalar_type(), [&]<typename T>() {
    finish(data_of<T>(out, M * N), sums, scale, bias, N, accumulate);
  });
}

}  // namespace train_sft::ops

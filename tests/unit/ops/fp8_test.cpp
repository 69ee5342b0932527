#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "check.h"
#include "train_sft/ops/fp8_linear.h"

namespace train_sft::ops {
namespace {

constexpr Fp8Format kFormats[] = {Fp8Format::e4m3, Fp8Format::e5m2};
const float kScales[] = {9.5e-7F, 3.9e-3F, 0.037F, 0.5F,    1.0F,
                         1.7F,    13.0F,   331.0F, 1024.0F, 1.1e6F};

at::ScalarType torch_type(Fp8Format format) {
  return format == Fp8Format::e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2;
}

// Every pattern of bfloat16, infinities and NaN among them.
at::Tensor all_bfloat16() {
  at::Tensor patterns = at::empty({256, 256}, at::kBFloat16);
  auto* bits = static_cast<uint16_t*>(patterns.mutable_data_ptr());
  for (uint32_t i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  return patterns;
}

at::Tensor one(float value) {
  return at::full({1}, value, at::kFloat);
}

TEST(Fp8Test, RoundingIsTorchsForEveryBFloat16AtEveryScale) {
  const at::Tensor input = all_bfloat16();
  for (const Fp8Format format : kFormats) {
    const float largest = fp8_largest(format);
    for (const float scale : kScales) {
      const at::Tensor expected =
          input.to(at::kFloat).mul(scale).clamp(-largest, largest).to(torch_type(format));
      const at::Tensor got = at::empty({256, 256}, at::kByte);
      const at::Tensor across = at::empty({256, 256}, at::kByte);
      fp8_quantize(got, across, {}, input, one(scale), format);
      EXPECT_TRUE(got.t().equal(across));
      const auto* want = static_cast<const uint8_t*>(expected.const_data_ptr());
      const auto* have = got.const_data_ptr<uint8_t>();
      const at::Tensor values = input.to(at::kFloat);
      int64_t wrong = 0;
      for (int64_t i = 0; i < 65536; ++i) {
        const bool nan = std::isnan(values.const_data_ptr<float>()[i]);
        wrong += nan ? !std::isnan(fp8_value(have[i], format)) : have[i] != want[i];
      }
      EXPECT_EQ(wrong, 0) << "format " << static_cast<int>(format) << ", scale " << scale;
    }
  }
}

TEST(Fp8Test, ValuesAreTorchsForEveryByte) {
  for (const Fp8Format format : kFormats) {
    at::Tensor stored = at::empty({256}, torch_type(format));
    auto* bytes = static_cast<uint8_t*>(stored.mutable_data_ptr());
    for (int i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
    const at::Tensor expected = stored.to(at::kFloat);
    for (int i = 0; i < 256; ++i) {
      const float want = expected.const_data_ptr<float>()[i];
      const float have = fp8_value(static_cast<uint8_t>(i), format);
      EXPECT_TRUE(std::isnan(want) ? std::isnan(have)
                                   : have == want && std::signbit(have) == std::signbit(want))
          << i << ": " << have << ", " << want;
    }
  }
}

TEST(Fp8Test, AmaxIsThatOfTheInputAndAccumulates) {
  const at::Tensor input = at::zeros({16, 16}, at::kFloat), amax = one(2);
  input.mutable_data_ptr<float>()[37] = -3.5F;
  fp8_quantize(at::empty({16, 16}, at::kByte), {}, amax, input, one(100), Fp8Format::e4m3);
  EXPECT_EQ(amax.item<float>(), 3.5F);
  fp8_amax(amax, input.mul(0.1));
  EXPECT_EQ(amax.item<float>(), 3.5F);
  fp8_amax(amax, input.mul(2));
  EXPECT_EQ(amax.item<float>(), 7.0F);
  input.mutable_data_ptr<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  fp8_amax(amax, input);
  EXPECT_TRUE(std::isnan(amax.item<float>()));
}

TEST(Fp8Test, ScalesFollowTheLargestOfTheHistory) {
  const at::Tensor history = at::zeros({3, 2}), amax = at::zeros({3}), scale = at::full({3}, 1.0);
  const at::Tensor inverse = at::full({3}, 1.0), largest = at::full({3}, kLargestE4m3);
  const auto step = [&](float a, float b, float c) {
    float* now = amax.mutable_data_ptr<float>();
    now[0] = a, now[1] = b, now[2] = c;
    fp8_update_scales(history, amax, scale, inverse, largest, 0);
    EXPECT_EQ(amax.abs().max().item<float>(), 0);
    return scale.clone();
  };
  const float inf = std::numeric_limits<float>::infinity();
  at::Tensor now = step(4.48F, 0, inf);
  EXPECT_FLOAT_EQ(now[0].item<float>(), 100);
  EXPECT_EQ(now[1].item<float>(), 1);  // nothing seen: stays
  EXPECT_EQ(now[2].item<float>(), 1);  // infinity says nothing
  now = step(0.448F, 448, 4.48F);
  EXPECT_FLOAT_EQ(now[0].item<float>(), 100);  // the larger of two steps
  EXPECT_FLOAT_EQ(now[1].item<float>(), 1);
  now = step(0.448F, 0, 4.48F);
  EXPECT_FLOAT_EQ(now[0].item<float>(), 1000);  // the large one has left the history
  EXPECT_FLOAT_EQ(inverse[0].item<float>(), 1e-3F);
  EXPECT_FLOAT_EQ(fp8_scale(4.48F, kLargestE4m3, 1, 7), 50);  // a factor of two to spare
}

TEST(Fp8Test, ProductsAreThoseOfTheRoundedOperands) {
  const int64_t M = 48, N = 32, K = 80;
  const at::Tensor x = random_tensor({M, K}, 1, at::kBFloat16);
  const at::Tensor w = random_tensor({N, K}, 2, at::kBFloat16);
  const at::Tensor bias = random_tensor({N}, 3, at::kBFloat16);
  for (const Fp8Format format : kFormats) {
    const Fp8Operand a{at::empty({M, K}, at::kByte), one(1 / 20.0F), format};
    const Fp8Operand b{at::empty({N, K}, at::kByte), one(1 / 30.0F), Fp8Format::e4m3};
    fp8_quantize(a.values, {}, {}, x, one(20), format);
    fp8_quantize(b.values, {}, {}, w, one(30), Fp8Format::e4m3);
    const auto rounded = [](const at::Tensor& input, double scale, Fp8Format f) {
      return input.to(at::kFloat).mul(scale).to(torch_type(f)).to(at::kDouble).div(scale);
    };
    const at::Tensor expected =
        at::matmul(rounded(x, 20, format), rounded(w, 30, Fp8Format::e4m3).t());
    const at::Tensor out = at::full({M, N}, 1.0, at::kFloat);
    fp8_matmul(out, a, b, {}, true);
    EXPECT_LE(out.to(at::kDouble).sub(1).sub(expected).abs().max().item<double>(), 1e-4);
    const at::Tensor rough = at::empty({M, N}, at::kBFloat16);
    fp8_matmul(rough, a, b, bias, false);
    const at::Tensor with_bias = expected.add(bias.to(at::kDouble));
    EXPECT_LE(rough.to(at::kDouble).sub(with_bias).norm().item<double>(),
              0.004 * with_bias.norm().item<double>());
  }
}

}  // namespace
}  // namespace train_sft::ops

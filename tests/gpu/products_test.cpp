// Products, the loss, attention and the update against the CPU's ops on the same numbers.
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>

#include <cmath>
#include <tuple>

#include "gpu.h"
#include "train_sft/ops/adamw.h"
#include "train_sft/ops/attention.h"
#include "train_sft/ops/cross_entropy.h"
#include "train_sft/ops/linear.h"
#include "train_sft/ops/muon.h"

namespace train_sft::ops {
namespace {

class Products : public GpuTestWith<at::ScalarType> {};

// ‖·‖ errors of products in float: TF32 would be at 3e-4.
double product_error(at::ScalarType type) {
  return type == at::kBFloat16 ? 6e-3 : 1e-5;
}

TEST_P(Products, EveryTransposition) {
  const at::ScalarType type = GetParam();
  const int64_t M = 96, N = 200, K = 72;
  for (int variant = 0; variant < 8; ++variant) {
    const bool ta = variant & 1, tb = variant & 2, to_float = variant & 4;
    const at::ScalarType out_type = to_float ? at::kFloat : type;
    const at::Tensor a = normal({ta ? K : M, ta ? M : K}, type);
    const at::Tensor b = normal({tb ? N : K, tb ? K : N}, type);
    const at::Tensor product = at::matmul(ta ? a.to(at::kDouble).t() : a.to(at::kDouble),
                                          tb ? b.to(at::kDouble).t() : b.to(at::kDouble));
    const at::Tensor out = unwritten({M, N}, out_type);
    table().gemm(out, on_gpu(a), ta, on_gpu(b), tb, 1.0, {}, false);
    EXPECT_CLOSE(out, product, product_error(out_type));
    const at::Tensor before = normal({M, N}, out_type), sum = on_gpu(before);
    table().gemm(sum, on_gpu(a), ta, on_gpu(b), tb, 0.5, {}, true);
    EXPECT_CLOSE(sum, before.to(at::kDouble) + 0.5 * product, product_error(out_type));
    if (to_float && type != at::kFloat) continue;
    const at::Tensor bias = normal({N}, type);
    table().gemm(out, on_gpu(a), ta, on_gpu(b), tb, 1.0, on_gpu(bias), false);
    EXPECT_CLOSE(out, product + bias.to(at::kDouble), product_error(type));
  }
}

TEST_P(Products, ColumnsOfAWiderMatrix) {
  const at::ScalarType type = GetParam();
  const at::Tensor wide = normal({64, 96}, type), b = normal({8, 32}, type);
  const at::Tensor there = on_gpu(wide), low = unwritten({64, 24}, type);
  low.zero_();
  table().gemm(low.narrow(1, 8, 8), there.narrow(1, 32, 32), false, on_gpu(b), true, 2.0, {},
               false);
  const at::Tensor expected = at::zeros({64, 24}, at::kDouble);
  expected.narrow(1, 8, 8).copy_(
      2 * at::matmul(wide.narrow(1, 32, 32).to(at::kDouble), b.to(at::kDouble).t()));
  EXPECT_CLOSE(low, expected, product_error(type));
}

// A vocabulary that is no multiple of anything, in one chunk and in several, with padding rows
// whose hidden state would spoil everything.
TEST_P(Products, LinearCrossEntropy) {
  const at::ScalarType type = GetParam();
  const int64_t L = 300, C = 64, V = 1003;
  const at::Tensor hidden = normal({L, C}, type), weight = normal({V, C}, type, 0.2);
  std::vector<int32_t> targets(L), learned;
  std::vector<float> weights(L), used;
  for (int64_t l = 0; l < L; ++l) {
    targets[l] = static_cast<int32_t>(l * 37 % V);
    weights[l] = l % 10 == 9 ? 0.0f : 0.5f + 0.001f * static_cast<float>(l);
    if (weights[l] == 0) continue;
    learned.push_back(static_cast<int32_t>(l));
    used.push_back(weights[l]);
  }
  const at::Tensor scratch = at::empty({4 << 20}, at::kByte);
  const at::Tensor dh = at::empty_like(hidden), dw = at::zeros({V, C});
  const CrossEntropySums sums =
      linear_cross_entropy(dh, dw, hidden, weight, targets, learned, used, scratch);
  const Uploaded<int32_t> ids(targets);
  const Uploaded<float> there(weights);
  for (int64_t bytes : {4 << 20, 300000}) {
    const at::Tensor h = on_gpu(hidden), grad = at::zeros({V, C}, h.options().dtype(at::kFloat));
    const Uploaded<DeviceSums> device_sums({DeviceSums{1, 1, 1, 1, 1}});
    const at::Tensor room = unwritten({bytes}, at::kByte);
    table().linear_cross_entropy(device_sums.data(), h, grad, h, on_gpu(weight), ids.data(),
                                 there.data(), room);  // the gradient over its input
    const DeviceSums got = device_sums.download()[0];
    EXPECT_NEAR(got.loss - 1, sums.loss, (type == at::kFloat ? 1e-5 : 1e-3) * sums.loss);
    EXPECT_NEAR(got.weight - 1, sums.weight, 1e-9 * sums.weight);
    EXPECT_EQ(got.tokens - 1, static_cast<double>(sums.tokens));
    EXPECT_NEAR(got.correct - 1, static_cast<double>(sums.correct), type == at::kFloat ? 0 : 1);
    EXPECT_EQ(got.sum_of_squares, 1);
    EXPECT_CLOSE(h, dh, type == at::kFloat ? 1e-5 : 1.5e-2);
    EXPECT_CLOSE(grad, dw, type == at::kFloat ? 1e-5 : 1.5e-2);
    table().linear_cross_entropy(device_sums.data(), {}, {}, on_gpu(hidden), on_gpu(weight),
                                 ids.data(), there.data(), room);
    EXPECT_NEAR(device_sums.download()[0].loss - 1, 2 * sums.loss,
                (type == at::kFloat ? 1e-5 : 1e-3) * 2 * sums.loss);
  }
}

// Of equal logits the first is the arg max, as on the CPU.
TEST_P(Products, TiesGoToTheFirst) {
  const at::Tensor hidden = on_gpu(at::zeros({3, 16}, GetParam()));
  const Uploaded<int32_t> targets({0, 1, 39});
  const Uploaded<float> weights({1, 1, 1});
  const Uploaded<DeviceSums> sums({DeviceSums{}});
  table().linear_cross_entropy(sums.data(), {}, {}, hidden, on_gpu(normal({40, 16}, GetParam())),
                               targets.data(), weights.data(), unwritten({4096}, at::kByte));
  EXPECT_EQ(sums.download()[0].correct, 1);
  EXPECT_NEAR(sums.download()[0].loss, 3 * std::log(40.0), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Types, Products, testing::Values(at::kBFloat16, at::kFloat));

class Attention : public GpuTestWith<std::tuple<at::ScalarType, AttentionShape>> {};

// Documents of one token to several tiles, and empty ones at the end.
TEST_P(Attention, ForwardAndBackward) {
  const auto [type, shape] = GetParam();
  const std::vector<int32_t> limits = kGpu.is_cpu() ? std::vector<int32_t>{0, 1, 35, 40, 78, 80}
                                                    : std::vector<int32_t>{0, 1, 65, 70, 398, 400};
  const int32_t N = limits.back();
  std::vector<int32_t> with_empty = limits;
  with_empty.insert(with_empty.end(), 3, N);
  const at::Tensor qkv = normal({N, shape.qkv_width()}, type);
  const at::Tensor out = at::empty({N, shape.out_width()}, type),
                   lse = at::empty({shape.n_head, N});
  attention_forward(out, lse, qkv, limits, shape);
  const Uploaded<int32_t> there(with_empty);
  const DeviceDocuments documents{there.data(), static_cast<int64_t>(with_empty.size()) - 1, 384};
  const at::Tensor y = like(out), l = like(lse), x = on_gpu(qkv);
  table().attention_forward(y, l, x, documents, shape);
  EXPECT_CLOSE(y, out, rounding(type));
  EXPECT_CLOSE(l, lse, 1e-5);
  const at::Tensor grad_out = normal(out.sizes(), type), grad = at::empty_like(qkv);
  attention_backward(grad, grad_out, out, lse, qkv, limits, shape);
  const at::Tensor g = like(grad), again = like(grad), dy = on_gpu(grad_out);
  table().attention_backward(g, dy, y, l, x, documents, shape);
  EXPECT_CLOSE(g, grad, 2 * rounding(type));
  table().attention_backward(again, dy, y, l, x, documents, shape);
  EXPECT_SAME(again, on_cpu(g));
  table().set_deterministic(false);
  table().attention_backward(again, dy, y, l, x, documents, shape);
  table().set_deterministic(true);
  EXPECT_CLOSE(again, grad, 2 * rounding(type));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    testing::Combine(testing::Values(at::kBFloat16, at::kFloat),
                     testing::Values(AttentionShape{4, 4, 64}, AttentionShape{8, 2, 128},
                                     AttentionShape{6, 3, 40}, AttentionShape{2, 1, 10})));

class Update : public GpuTest {};

TEST_F(Update, SumOfSquares) {
  for (int64_t n : {1, 1000, 1 << 20, 12345677}) {
    const at::Tensor x = normal({n}, at::kFloat);
    const Uploaded<double> sum({2.0});
    table().sum_of_squares(sum.data(), on_gpu(x));
    const double expected = sum_of_squares(x);
    EXPECT_NEAR(sum.download()[0] - 2, expected, 1e-12 * expected + 1e-12);
  }
  const at::Tensor bad = on_gpu(normal({1000}, at::kFloat));
  bad[567] = std::nan("");
  const Uploaded<double> sum({0.0});
  table().sum_of_squares(sum.data(), bad);
  EXPECT_TRUE(std::isnan(sum.download()[0]));
}

TEST_F(Update, AdamWStepsAsTheCpu) {
  for (int64_t n : {4096, 1001}) {
    const at::Tensor master = normal({n}, at::kFloat), grad = normal({n}, at::kFloat, 30);
    const at::Tensor m = at::zeros({n}), v = at::zeros({n}), compute = master.to(at::kBFloat16);
    const at::Tensor w = on_gpu(master), g = on_gpu(grad), gm = on_gpu(m), gv = on_gpu(v),
                     c = on_gpu(compute);
    const Uploaded<DeviceUpdate> update({DeviceUpdate{1e-2}});
    const UpdateSettings settings{0.9, 0.95, 1e-8, 1.0};
    for (int step = 1; step <= 4; ++step) {
      const bool bad = step == 3;  // the loss is not finite: nothing moves, t stays
      DeviceSums sums{bad ? std::nan("") : 100.0, 50, 50, 1, 0};
      const Uploaded<DeviceSums> there({sums});
      table().sum_of_squares(&there.data()->sum_of_squares, g);
      table().prepare_update(update.data(), there.data(), settings);
      table().adamw(w, c, g, gm, gv, {}, update.data(), settings, 0.1);
      const DeviceUpdate u = update.download()[0];
      EXPECT_EQ(u.skip, bad ? 1 : 0);
      EXPECT_EQ(u.t, step < 3 ? step : step - 1);
      EXPECT_EQ(there.download()[0].weight, 0);
      if (bad) continue;
      const double norm = std::sqrt(sum_of_squares(grad)) / 50;
      EXPECT_NEAR(u.loss, 2, 1e-12);
      EXPECT_NEAR(u.grad_norm, norm, 1e-9 * norm);
      AdamWStep s;
      s.lr = 1e-2;
      s.weight_decay = 0.1;
      s.bias_correction1 = 1 - std::pow(s.beta1, u.t);
      s.bias_correction2 = 1 - std::pow(s.beta2, u.t);
      s.grad_scale = std::min(1.0, 1 / (norm + 1e-6)) / 50;
      adamw(master, compute, grad, m, v, s);
    }
    EXPECT_CLOSE(w, master, 1e-6);
    EXPECT_CLOSE(gm, m, 1e-6);
    EXPECT_CLOSE(gv, v, 1e-6);
    EXPECT_CLOSE(c, compute, 1e-4);
  }
}

// The amax of the weights comes with their update: the bits of a pass of its own.
TEST_F(Update, AdamWFindsTheLargestMagnitudeOfWhatItWrites) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (int64_t n : {4096, 1000, 7, 1}) {
      const at::Tensor master = normal({n}, at::kFloat), grad = normal({n}, at::kFloat, 30);
      const UpdateSettings settings{0.9, 0.95, 1e-8, 1.0};
      at::Tensor results[2];
      for (const bool fused : {false, true}) {
        const at::Tensor w = on_gpu(master), c = on_gpu(master.to(type));
        const at::Tensor m = on_gpu(at::zeros({n})), v = on_gpu(at::zeros({n}));
        const at::Tensor amax = on_gpu(at::full_like(at::empty({1}), 1e-3));
        const Uploaded<DeviceSums> sums({DeviceSums{100, 50, 50, 1, 4}});
        const Uploaded<DeviceUpdate> own({DeviceUpdate{1e-2}});
        table().prepare_update(own.data(), sums.data(), settings);
        table().adamw(w, c, on_gpu(grad), m, v, fused ? amax : at::Tensor(), own.data(), settings,
                      0.1);
        if (!fused) table().fp8_amax(amax, c.view({1, n}));
        EXPECT_EQ(on_cpu(amax).item<float>(), on_cpu(c).to(at::kFloat).abs().max().item<float>());
        results[fused] = on_cpu(c);

        // Skipped: it stays what it was.
        const Uploaded<DeviceSums> bad({DeviceSums{std::nan(""), 50, 50, 1, 4}});
        const at::Tensor before = on_cpu(amax);
        table().prepare_update(own.data(), bad.data(), settings);
        table().adamw(w, c, on_gpu(grad), m, v, amax, own.data(), settings, 0.1);
        EXPECT_SAME(amax, before);
      }
      EXPECT_TRUE(results[0].equal(results[1]));
    }
  }
}

// A parameter that Muon updates a part of, in a place of its own.
struct MuonCase {
  MuonShape shape;
  at::ScalarType type;
  int64_t numel() const { return shape.rows * shape.stride; }
  at::Tensor matrix(const at::Tensor& parameter) const {
    return parameter.view({shape.rows, shape.stride})
        .narrow(1, shape.first_column, shape.columns)
        .contiguous();
  }
};
struct MuonState {
  at::Tensor master, compute, momentum;  // compute undefined: none
  explicit MuonState(const MuonCase& c)
      : master(normal({c.numel()}, at::kFloat)),
        compute(c.type == at::kFloat ? at::Tensor() : master.to(c.type)),
        momentum(normal({c.numel()}, at::kFloat)) {}
  MuonState(const at::Tensor& w, const at::Tensor& c, const at::Tensor& m)
      : master(w), compute(c), momentum(m) {}
  MuonState there() const { return {on_gpu(master), on_gpu(compute), on_gpu(momentum)}; }
};
constexpr double kMuonLr = 0.03, kMuonDecay = 0.1;

void muon_there(const MuonCase& c, const MuonState& state, const at::Tensor& grad, double skip) {
  MuonStep step;
  step.weight_decay = kMuonDecay;
  DeviceUpdate given{kMuonLr};
  given.grad_scale = 1.0 / 64;
  given.skip = skip;
  const Uploaded<DeviceUpdate> update({given});
  const Uploaded<double> squares({std::nan("")});
  muon_on_device(table(), state.master, state.compute, on_gpu(grad), state.momentum,
                 unwritten({muon_scratch(c.shape)}, c.type), squares.data(), c.shape, update.data(),
                 step);
}

// High and wide ones, k of q, k and v, sizes that are no multiple of eight, and several blocks. In
// bfloat16 each of 15 products rounds to 8 bits: the update, whose singular values are all near 1,
// is as far from the CPU's as that leaves it.
TEST_F(Update, MuonStepsAsTheCpu) {
  const MuonShape shapes[] = {{48, 32, 32}, {32, 48, 48},     {40, 40, 40},   {24, 16, 48, 16},
                              {21, 13, 13}, {13, 21, 63, 21}, {96, 256, 256}, {256, 96, 288, 192}};
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const MuonShape& shape : shapes) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.columns << " of "
                                      << shape.stride << ", " << type);
      const MuonCase c{shape, type};
      const MuonState here(c), there = here.there(), again = here.there();
      const at::Tensor before = here.master.clone(), grad = normal({c.numel()}, at::kFloat, 30);
      MuonStep step;
      step.lr = kMuonLr;
      step.weight_decay = kMuonDecay;
      step.grad_scale = 1.0 / 64;
      muon(here.master, here.compute, grad, here.momentum, at::empty({muon_scratch(shape)}), shape,
           step);
      muon_there(c, there, grad, 0);
      EXPECT_CLOSE(there.momentum, here.momentum, 1e-6);
      const at::Tensor kept = c.matrix(before) * (1 - kMuonLr * kMuonDecay);
      EXPECT_CLOSE(c.matrix(on_cpu(there.master)) - kept, c.matrix(here.master) - kept,
                   type == at::kFloat ? 1e-5 : 0.03);
      // The rest of the parameter is another matrix's.
      const at::Tensor rest = on_cpu(there.master).view({shape.rows, shape.stride}).clone();
      rest.narrow(1, shape.first_column, shape.columns).copy_(c.matrix(before));
      EXPECT_SAME(rest.view({-1}), before);
      if (there.compute.defined()) {
        EXPECT_SAME(c.matrix(on_cpu(there.compute)), c.matrix(on_cpu(there.master)).to(type));
      }
      muon_there(c, again, grad, 0);
      EXPECT_SAME(again.master, on_cpu(there.master));
      EXPECT_SAME(again.momentum, on_cpu(there.momentum));
    }
  }
}

TEST_F(Update, MuonThatIsSkippedChangesNothing) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const MuonCase c{{24, 16, 48, 16}, type};
    const MuonState here(c), there = here.there();
    muon_there(c, there, at::full_like(here.master, std::nan("")), 1);
    EXPECT_SAME(there.master, here.master);
    EXPECT_SAME(there.momentum, here.momentum);
    if (type != at::kFloat) {
      EXPECT_SAME(there.compute, here.compute);
    }
  }
}

// No direction at all: weights decay, and nothing is divided by zero.
TEST_F(Update, MuonWithoutAGradientDecays) {
  const MuonCase c{{16, 24, 24}, at::kFloat};
  const MuonState here(c), there = here.there();
  there.momentum.zero_();
  muon_there(c, there, at::zeros({c.numel()}), 0);
  EXPECT_CLOSE(there.master, here.master * (1 - kMuonLr * kMuonDecay), 1e-7);
  EXPECT_SAME(there.momentum, at::zeros({c.numel()}));
}

// One by one, without products; of a matrix with more elements than the blocks of the sum take at
// once, too.
TEST_F(Update, MuonsPasses) {
  const double mu = 0.75;
  DeviceUpdate given{kMuonLr};
  given.grad_scale = 2;
  const Uploaded<DeviceUpdate> update({given});
  const Uploaded<double> squares({std::nan("")});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const MuonShape& shape :
         {MuonShape{1100, 2048, 2048}, {1, 1, 1}, {40, 24, 72, 24}, {9, 7, 21, 14}}) {
      const MuonCase c{shape, type};
      const MuonState here(c), there = here.there();
      const at::Tensor grad = normal({c.numel()}, at::kFloat, 3), g = on_gpu(grad);
      const at::Tensor next = c.matrix(here.momentum.to(at::kDouble) * mu + grad * (1 - mu) * 2);
      const at::Tensor v = c.matrix(grad.to(at::kDouble) * 2) * (1 - mu) + next * mu;
      const double norm = at::linalg_vector_norm(v).item<double>();
      table().muon_momentum(there.momentum, squares.data(), g, shape, mu, update.data());
      EXPECT_CLOSE(c.matrix(on_cpu(there.momentum)), next, 1e-6);
      EXPECT_NEAR(std::sqrt(squares.download()[0]) / norm, 1, 1e-6);
      const at::Tensor x = unwritten({shape.rows, shape.columns}, type);
      table().muon_unit(x, there.momentum, g, squares.data(), shape, mu, update.data());
      EXPECT_CLOSE(x, v / norm, rounding(type));
      const at::Tensor turned = unwritten({shape.columns, shape.columns}, type);
      const at::Tensor square = normal({shape.columns, shape.columns}, type);
      table().scale_shift(turned, on_gpu(square), -1.5, 4);
      at::Tensor expected = square.to(at::kDouble) * -1.5;
      expected.diagonal().add_(4);
      EXPECT_CLOSE(turned, expected, rounding(type));
      table().muon_apply(there.master, there.compute, x, shape, 5, kMuonDecay, update.data());
      const at::Tensor moved = c.matrix(here.master).to(at::kDouble) * (1 - kMuonLr * kMuonDecay) -
                               on_cpu(x).to(at::kDouble) * (5 * kMuonLr);
      EXPECT_CLOSE(c.matrix(on_cpu(there.master)), moved, 1e-6);
      if (there.compute.defined()) {
        EXPECT_CLOSE(c.matrix(on_cpu(there.compute)), moved, rounding(type));
      }
    }
  }
}

class EightBits : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (!IsSkipped() && table().fp8_matmul == nullptr) GTEST_SKIP() << "this GPU has no 8 bits";
  }
  static at::ScalarType torchs(Fp8Format format) {
    return format == Fp8Format::e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2;
  }
  static double largest(Fp8Format format) { return format == Fp8Format::e4m3 ? 448 : 57344; }
  static at::Tensor cast(const at::Tensor& x, double scale, Fp8Format format) {
    const at::Tensor scaled = (x.to(at::kFloat) * scale).clamp(-largest(format), largest(format));
    return scaled.to(torchs(format)).view(at::kByte);
  }
};

TEST_F(EightBits, RoundingIsTorchs) {
  // Every finite bfloat16, as a matrix; rows of the exponent of NaN left out.
  at::Tensor all = at::arange(0, 65536, at::kInt).to(at::kShort).view(at::kBFloat16);
  all = all.nan_to_num(0, 0, 0).view({512, 128}).contiguous();
  for (Fp8Format format : {Fp8Format::e4m3, Fp8Format::e5m2}) {
    for (int power = -20; power <= 20; power += 5) {
      const double factor = std::ldexp(1.37, power);
      const at::Tensor scale = at::full_like(at::empty({1}), factor);
      const at::Tensor expected = cast(all, scale.item<float>(), format);
      const at::Tensor values = unwritten({512, 128}, at::kByte),
                       turned = unwritten({128, 512}, at::kByte);
      const at::Tensor amax = on_gpu(at::zeros({1}));
      table().fp8_quantize(values, turned, amax, on_gpu(all), on_gpu(scale), format);
      EXPECT_SAME(values, expected);
      EXPECT_SAME(turned, expected.t().contiguous());
      EXPECT_EQ(on_cpu(amax).item<float>(), all.to(at::kFloat).abs().max().item<float>());
      const at::Tensor plain = unwritten({512, 128}, at::kByte);
      table().fp8_quantize(plain, {}, {}, on_gpu(all), on_gpu(scale), format);
      EXPECT_SAME(plain, expected);
    }
  }
}

TEST_F(EightBits, TilesAtTheEdge) {
  const at::Tensor x = normal({48, 208}, at::kBFloat16), scale = at::full_like(at::empty({1}), 16);
  const at::Tensor turned = unwritten({208, 48}, at::kByte);
  table().fp8_quantize({}, turned, {}, on_gpu(x), on_gpu(scale), Fp8Format::e4m3);
  EXPECT_SAME(turned, cast(x, 16, Fp8Format::e4m3).t().contiguous());
}

TEST_F(EightBits, ScalesFollowTheHistory) {
  const at::Tensor history = on_gpu(at::zeros({3, 4})),
                   scale = on_gpu(at::full_like(at::empty({3}), 7));
  const at::Tensor inverse = on_gpu(at::zeros({3})),
                   largest = on_gpu(at::full_like(at::empty({3}), 448));
  const auto step = [&](std::vector<float> highest) {
    const at::Tensor amax = on_gpu(at::tensor(highest));
    table().fp8_update_scales(history, amax, scale, inverse, largest, 1.0);
    EXPECT_EQ(on_cpu(amax).abs().max().item<float>(), 0);
    return on_cpu(scale);
  };
  const float bad = std::nanf("");
  EXPECT_TRUE(step({2, 0, bad}).equal(at::tensor({112.0f, 7.0f, 7.0f})));
  // The highest of four; what is not finite is forgotten.
  EXPECT_TRUE(step({1, 4, 1}).equal(at::tensor({112.0f, 56.0f, 224.0f})));
  step({1, 4, 1});
  step({1, 4, 1});
  EXPECT_TRUE(step({1, 4, 1}).equal(at::tensor({224.0f, 56.0f, 224.0f})));
  EXPECT_NEAR(on_cpu(inverse)[0].item<float>(), 1 / 224.0, 1e-9);
}

TEST_F(EightBits, ProductsOfWhatTheBytesMean) {
  const int64_t M = 64, N = 96, K = 128;
  for (Fp8Format of_a : {Fp8Format::e4m3, Fp8Format::e5m2}) {
    const at::Tensor a = cast(normal({M, K}, at::kBFloat16), 8, of_a);
    const at::Tensor b = cast(normal({N, K}, at::kBFloat16), 4, Fp8Format::e4m3);
    const at::Tensor product = at::matmul(a.view(torchs(of_a)).to(at::kDouble) / 8,
                                          (b.view(at::kFloat8_e4m3fn).to(at::kDouble) / 4).t());
    const Fp8Operand x{on_gpu(a), on_gpu(at::full_like(at::empty({1}), 0.125)), of_a};
    const Fp8Operand y{on_gpu(b), on_gpu(at::full_like(at::empty({1}), 0.25)), Fp8Format::e4m3};
    const at::Tensor out = unwritten({M, N}, at::kBFloat16), bias = normal({N}, at::kBFloat16);
    table().fp8_matmul(out, x, y, {}, false);
    EXPECT_CLOSE(out, product, 6e-3);
    table().fp8_matmul(out, x, y, on_gpu(bias), false);
    EXPECT_CLOSE(out, product + bias.to(at::kDouble), 6e-3);
    const at::Tensor before = normal({M, N}, at::kFloat), sum = on_gpu(before);
    table().fp8_matmul(sum, x, y, {}, true);
    EXPECT_CLOSE(sum, before.to(at::kDouble) + product, 1e-3);
  }
}

}  // namespace
}  // namespace train_sft::ops

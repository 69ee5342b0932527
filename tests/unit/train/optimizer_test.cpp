#include "train_sft/train/optimizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/python.h"
#include "support/temporary_directory.h"
#include "train/tensor_bytes.h"
#include "unit/train/small_models.h"

namespace train_sft {
namespace {

void write_parameters(const std::string& path, const Parameters& parameters,
                      const at::Tensor& flat) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& info : parameters.layout().parameters)
    entries.push_back(
        safetensors_entry(info.name, flat.narrow(0, info.offset, info.numel).view(info.shape)));
  write_safetensors(path, entries);
}

constexpr double kDenominator = 37.0;
constexpr int kSteps = 6;

// Gradient norms straddle the clipping threshold: some steps clip, some do not.
double gradient_scale(int step) {
  return step % 2 == 0 ? 40.0 : 0.1;
}
double learning_rate(int step) {
  return 1e-2 / (1 + step);
}

constexpr const char* kTorch = R"(
import sys, torch
from safetensors.torch import load_file
folder, denominator, steps = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
weights = {k: torch.nn.Parameter(v.clone()) for k, v in load_file(folder + '/start').items()}
matrices = [w for w in weights.values() if w.dim() >= 2]
others = [w for w in weights.values() if w.dim() < 2]
optimizer = torch.optim.AdamW([{'params': matrices, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}],
                              lr=1.0, betas=(0.9, 0.95), eps=1e-8)
norms = []
for step in range(steps):
    gradients = load_file(f'{folder}/gradient{step}')
    for name, w in weights.items():
        w.grad = gradients[name] / denominator
    norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), 1.0).item())
    for group in optimizer.param_groups:
        group['lr'] = 1e-2 / (1 + step)
    optimizer.step()
ours = load_file(folder + '/end')
worst = max((ours[k] - w).abs().max().item() for k, w in weights.items())
moved = max((load_file(folder + '/start')[k] - w).abs().max().item() for k, w in weights.items())
assert moved > 1e-3, moved
assert worst < 1e-6, f'largest difference {worst}'
assert min(norms) < 1 < max(norms), norms
print(' '.join(f'{n:.6e}' for n in norms))
)";

TEST(AdamWTest, EqualsTorchWithClippingAndDecayOnMatricesOnly) {
  const TemporaryDirectory directory;
  Parameters parameters(small_gpt2(), at::kFloat, at::kFloat);
  fill_random(parameters.layout(), parameters.master(), 0, 0.1);
  write_parameters(directory / "start", parameters, parameters.master());
  Optimizer optimizer(parameters, {});
  std::vector<double> norms;
  for (int step = 0; step < kSteps; ++step) {
    fill_random(parameters.layout(), parameters.gradients(), static_cast<uint64_t>(step + 1),
                gradient_scale(step));
    write_parameters(directory / fmt::format("gradient{}", step), parameters,
                     parameters.gradients());
    const auto result = optimizer.step(learning_rate(step), kDenominator);
    ASSERT_TRUE(result.applied);
    norms.push_back(result.grad_norm);
  }
  EXPECT_EQ(optimizer.t, kSteps);
  write_parameters(directory / "end", parameters, parameters.master());
  const PythonResult torch = run_python(
      kTorch, {directory.path(), fmt::format("{}", kDenominator), fmt::format("{}", kSteps)});
  if (!torch.available) GTEST_SKIP() << torch.output;
  ASSERT_EQ(torch.exit_code, 0) << torch.output;
  std::istringstream theirs(torch.output);
  for (const double norm : norms) {
    double their_norm = 0;
    theirs >> their_norm;
    EXPECT_NEAR(norm, their_norm, 1e-5 * their_norm);
  }
}

TEST(AdamWTest, ANonFiniteGradientChangesNothing) {
  Parameters parameters(small_llama(), at::kFloat, at::kBFloat16);
  fill_random(parameters.layout(), parameters.master(), 0, 0.1);
  parameters.refresh_compute();
  Optimizer optimizer(parameters, {});
  fill_random(parameters.layout(), parameters.gradients(), 1, 1.0);
  ASSERT_TRUE(optimizer.step(1e-3, 10).applied);

  const at::Tensor master = parameters.master().clone(), compute = parameters.compute().clone();
  const at::Tensor first = optimizer.exp_avg().clone(), second = optimizer.exp_avg_sq().clone();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    fill_random(parameters.layout(), parameters.gradients(), 2, 1.0);
    parameters.gradients().data_ptr<float>()[5] = bad;
    const auto result = optimizer.step(1e-3, 10);
    EXPECT_FALSE(result.applied);
    EXPECT_FALSE(std::isfinite(result.grad_norm));
    EXPECT_EQ(optimizer.t, 1);
    EXPECT_TRUE(parameters.master().equal(master));
    EXPECT_TRUE(parameters.compute().equal(compute));
    EXPECT_TRUE(optimizer.exp_avg().equal(first));
    EXPECT_TRUE(optimizer.exp_avg_sq().equal(second));
  }
}

TEST(AdamWTest, TheComputeCopyIsTheRoundedMasterAndGapsStayZero) {
  Parameters parameters(small_qwen(), at::kFloat, at::kBFloat16);
  fill_random(parameters.layout(), parameters.master(), 0, 0.1);
  parameters.refresh_compute();
  Optimizer optimizer(parameters, {});
  fill_random(parameters.layout(), parameters.gradients(), 1, 1.0);
  ASSERT_TRUE(optimizer.step(1e-2, 3).applied);
  EXPECT_TRUE(parameters.compute().equal(parameters.master().to(at::kBFloat16)));

  at::Tensor gaps = parameters.master().clone();
  for (const auto& info : parameters.layout().parameters)
    gaps.narrow(0, info.offset, info.numel).zero_();
  EXPECT_EQ(gaps.abs().max().item<float>(), 0.0f);
}

// torch.optim.Muon (2.9 and later) on the matrices of the blocks, AdamW on the rest. Its iteration
// is in bfloat16: in float32, which it is given first, the two agree as closely as rounding lets.
constexpr const char* kTorchMuon = R"(
import sys, torch
from safetensors.torch import load_file
folder, denominator, steps = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
if not hasattr(torch.optim, 'Muon'):
    sys.exit('no torch.optim.Muon')
start = load_file(folder + '/start')

def cut(key, value):
    if key.endswith('attn.c_attn.weight'):
        return {f'{key}.{i}': part.contiguous() for i, part in enumerate(value.chunk(3, dim=1))}
    return {key: value}

def cut_all(tensors):
    return {k: v for key, value in tensors.items() for k, v in cut(key, value).items()}

def train(float32):
    bfloat16 = torch.Tensor.bfloat16
    if float32:
        torch.Tensor.bfloat16 = lambda tensor: tensor.clone()
    weights = {k: torch.nn.Parameter(v.clone()) for k, v in cut_all(start).items()}
    in_blocks = lambda k: k.startswith(('transformer.h.', 'model.layers.'))
    matrices = [w for k, w in weights.items() if w.dim() == 2 and in_blocks(k)]
    decayed = [w for k, w in weights.items() if w.dim() == 2 and not in_blocks(k)]
    others = [w for w in weights.values() if w.dim() < 2]
    assert matrices and decayed and others
    muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.1, momentum=0.95, nesterov=True,
                            adjust_lr_fn='match_rms_adamw')
    adamw = torch.optim.AdamW([{'params': decayed, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}],
                              lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for step in range(steps):
        gradients = cut_all(load_file(f'{folder}/gradient{step}'))
        for key, w in weights.items():
            w.grad = gradients[key] / denominator
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for group in muon.param_groups + adamw.param_groups:
            group['lr'] = 1e-2 / (1 + step)
        muon.step()
        adamw.step()
    torch.Tensor.bfloat16 = bfloat16
    return weights

ours = cut_all(load_file(folder + '/end'))
for float32, tolerance in ((True, 2e-3), (False, 5e-2)):
    theirs = train(float32)
    for key, w in theirs.items():
        moved = (w - cut_all(start)[key]).norm().item()
        off = (ours[key] - w).norm().item()
        assert moved > 1e-3, (key, moved)
        assert off < tolerance * moved, f'{key}: off by {off / moved} of the way, float32 {float32}'
)";

TEST(MuonTest, EqualsTorchForEachMatrixOfTheBlocks) {
  for (const ModelConfig& config : {small_gpt2(), small_llama()}) {
    const TemporaryDirectory directory;
    Parameters parameters(config, at::kFloat, at::kFloat);
    fill_random(parameters.layout(), parameters.master(), 0, 0.1);
    write_parameters(directory / "start", parameters, parameters.master());
    OptimizerOptions options;
    options.muon = true;
    Optimizer optimizer(parameters, options);
    for (int step = 0; step < kSteps; ++step) {
      fill_random(parameters.layout(), parameters.gradients(), static_cast<uint64_t>(step + 1),
                  gradient_scale(step));
      write_parameters(directory / fmt::format("gradient{}", step), parameters,
                       parameters.gradients());
      ASSERT_TRUE(optimizer.step(learning_rate(step), kDenominator).applied);
    }
    write_parameters(directory / "end", parameters, parameters.master());
    const PythonResult torch = run_python(
        kTorchMuon, {directory.path(), fmt::format("{}", kDenominator), fmt::format("{}", kSteps)});
    if (!torch.available) GTEST_SKIP() << torch.output;
    ASSERT_EQ(torch.exit_code, 0) << torch.output;
  }
}

TEST(MuonTest, UpdatesAreNearlyOrthogonalAndOfAdamWsSize) {
  Parameters parameters(small_llama(), at::kFloat, at::kBFloat16);
  fill_random(parameters.layout(), parameters.master(), 0, 0.1);
  parameters.refresh_compute();
  const at::Tensor before = parameters.master().clone();
  OptimizerOptions options;
  options.muon = true;
  options.weight_decay = 0;
  Optimizer optimizer(parameters, options);
  fill_random(parameters.layout(), parameters.gradients(), 1, 1.0);
  const double lr = 1e-2;
  ASSERT_TRUE(optimizer.step(lr, 3).applied);
  EXPECT_TRUE(parameters.compute().equal(parameters.master().to(at::kBFloat16)));
  for (const auto& info : parameters.layout().parameters) {
    if (!is_muons(info)) continue;
    const at::Tensor update =
        before.narrow(0, info.offset, info.numel).sub(parameters.master(info.name).view({-1}));
    const double rms = update.norm().item<double>() / std::sqrt(static_cast<double>(info.numel));
    // Singular values of 0.7 to 1.2 give 0.2 √max / √max of the learning rate, give or take.
    EXPECT_GT(rms / lr, 0.2 * 0.6) << info.name;
    EXPECT_LT(rms / lr, 0.2 * 1.25) << info.name;
  }
}

}  // namespace
}  // namespace train_sft

// The whole engine on the GPU against the engine on the CPU, graphs against eager launches, and the
// same bits again.
#include "train_sft/model/engine.h"

#include <c10/core/DeviceType.h>

#include <memory>

#include "golden/samples.h"
#include "gpu.h"

namespace train_sft {
namespace {

using ops::on_cpu;
using ops::plugin;
using ops::relative_error;

Batch rows_of(const ModelConfig& config, uint64_t seed) {
  samples::BatchOptions options;
  options.lengths = {24, 3, 11, 1, 24, 19, 7, 2, 24, 24, 5};
  options.weights = seed % 2 == 1;
  options.learned_of_ten = seed % 3 == 0 ? 10 : 6;
  options.seed = seed;
  return samples::batch(config, options);
}

struct Setting {
  samples::NamedConfig model;
  at::ScalarType compute;
  friend std::ostream& operator<<(std::ostream& out, const Setting& s) {
    return out << s.model << (s.compute == at::kFloat ? ", float" : ", bfloat16");
  }
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const samples::NamedConfig& model : samples::configs())
    for (at::ScalarType compute : {at::kFloat, at::kBFloat16}) all.push_back({model, compute});
  return all;
}

class GpuEngine : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (plugin().table == nullptr) GTEST_SKIP() << "no GPU: " << plugin().why;
    ops::register_device_table(c10::DeviceType::CUDA, plugin().table);
  }

  // An engine on the GPU with the weights of `host`.
  struct OnGpu {
    OnGpu(const Parameters& host, at::ScalarType compute, const EngineOptions& options)
        : parameters(host.config(), at::kFloat, compute, true, {}, ops::kGpu) {
      parameters.copy_from(host);
      engine = std::make_unique<Engine>(parameters, options);
    }
    ops::DeviceSums sums() const {
      const at::Tensor all = on_cpu(engine->device_sums());
      return *static_cast<const ops::DeviceSums*>(all.const_data_ptr());
    }
    Parameters parameters;
    std::unique_ptr<Engine> engine;
  };

  std::unique_ptr<Parameters> host() const {
    auto made =
        std::make_unique<Parameters>(GetParam().model.config, at::kFloat, GetParam().compute);
    initialise(*made, 3);
    samples::randomise(*made, 4);
    made->refresh_compute();
    return made;
  }
};

TEST_P(GpuEngine, LossesAndGradientsAreThoseOfTheCpu) {
  const auto parameters = host();
  const bool is_float = GetParam().compute == at::kFloat;
  EngineOptions options;
  options.dropout = 0.1;
  Engine on_host(*parameters, options);
  OnGpu gpu(*parameters, GetParam().compute, options);
  for (uint64_t step = 0; step < 6; ++step) {  // shapes come again: run, recorded, replayed
    const Batch batch = rows_of(parameters->config(), step);
    const LossSums expected = on_host.forward_backward(batch, step);
    const double before = gpu.sums().loss;
    gpu.engine->forward_backward(batch, step);
    EXPECT_NEAR((gpu.sums().loss - before) / expected.loss, 1, is_float ? 1e-5 : 1e-2) << step;
    EXPECT_LE(relative_error(gpu.parameters.gradients(), parameters->gradients()),
              is_float ? 1e-4 : 5e-2)
        << step;
    const Batch held_out = rows_of(parameters->config(), step + 100);
    EXPECT_NEAR(gpu.engine->evaluate(held_out).loss / on_host.evaluate(held_out).loss, 1,
                is_float ? 1e-5 : 1e-2);
  }
}

// Graph against eager launches, and a run against the same run: no bit differs.
TEST_P(GpuEngine, TheSameBitsAgain) {
  const auto parameters = host();
  std::vector<at::Tensor> gradients;
  std::vector<double> losses;
  for (int run = 0; run < 3; ++run) {
    EngineOptions options;
    options.dropout = 0.1;
    options.graphs = run != 1;
    OnGpu gpu(*parameters, GetParam().compute, options);
    for (uint64_t step = 0; step < 6; ++step)
      gpu.engine->forward_backward(rows_of(parameters->config(), step), step);
    gradients.push_back(on_cpu(gpu.parameters.gradients()));
    losses.push_back(gpu.sums().loss);
  }
  for (int run = 1; run < 3; ++run) {
    EXPECT_TRUE(gradients[run].equal(gradients[0])) << "run " << run;
    EXPECT_EQ(losses[run], losses[0]) << "run " << run;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuEngine, testing::ValuesIn(settings()));

}  // namespace
}  // namespace train_sft

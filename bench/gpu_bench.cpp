// Training steps on a GPU, without data, evaluation or checkpoints: the engine, the update, their
// graphs. And what the card can do at most: a large product, a large copy. JSON on stdout.
//
//   gpu_bench roofline
//   gpu_bench MODEL ROWS STEPS [eager]     MODEL: 124m, 112m, 1.2b; ROWS of a micro-batch
//
// The plugin: $TRAIN_SFT_CUDA_PLUGIN, or libtrain_sft_cuda.so beside the program.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/model/engine.h"
#include "train_sft/ops/device_table.h"

namespace {

using namespace train_sft;

const ops::DeviceTable& open_plugin(Json& about) {
  const char* named = std::getenv("TRAIN_SFT_CUDA_PLUGIN");
  const std::string path =
      named != nullptr
          ? named
          : (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libtrain_sft_cuda.so")
                .string();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  using Entry = const ops::DevicePlugin* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, ops::kPluginEntry));
  if (entry == nullptr) throw std::runtime_error(path + " has no entry");
  const ops::DevicePlugin& plugin = *entry();
  if (plugin.interface_version != ops::kDeviceInterface)
    throw std::runtime_error(path + " is of another version");
  std::array<char, 512> why{};
  const ops::DeviceTable* table = nullptr;
  if (plugin.device_count(why.data(), why.size()) > 0)
    table = plugin.open(0, why.data(), why.size());
  if (table == nullptr) throw std::runtime_error(why.data());
  ops::register_device_table(c10::DeviceType::CUDA, table);
  ops::DevicePlugin::Properties properties;
  plugin.properties(0, &properties);
  about["gpu"] = properties.name;
  return *table;
}

double seconds_of(const ops::DeviceTable& table, int repeats, const std::function<void()>& work) {
  table.synchronize();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) work();
  table.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repeats;
}

// Median, least and most of some repetitions.
Json spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {{"median", values[values.size() / 2]}, {"min", values.front()}, {"max", values.back()}};
}

void roofline(const ops::DeviceTable& table, Json& out) {
  const c10::Device gpu(c10::DeviceType::CUDA, 0);
  const int64_t n = 8192;
  const at::Tensor a = at::randn({n, n}).to(at::kBFloat16).to(gpu);
  const at::Tensor b = at::randn({n, n}).to(at::kBFloat16).to(gpu), c = at::empty_like(a);
  const auto product = [&] { table.gemm(c, a, false, b, true, 1.0, {}, false); };
  seconds_of(table, 5, product);
  std::vector<double> flops, bytes;
  for (int i = 0; i < 5; ++i)
    flops.push_back(2.0 * n * n * n / seconds_of(table, 20, product) / 1e12);
  const at::Tensor from = at::empty({int64_t{1} << 30}, at::TensorOptions(at::kFloat).device(gpu));
  const at::Tensor to = at::empty_like(from);
  const auto copy = [&] { to.copy_(from); };
  seconds_of(table, 2, copy);
  for (int i = 0; i < 5; ++i)
    bytes.push_back(2.0 * static_cast<double>(from.nbytes()) / seconds_of(table, 5, copy) / 1e12);
  out["bf16_tflops"] = spread(flops);
  out["copy_tb_per_s"] = spread(bytes);
}

ModelConfig model_of(std::string_view name) {
  ModelConfig config;  // GPT-2 of 12 layers, 768 wide
  config.vocab_size = 50304;
  if (name == "112m") {
    config.vocab_size = 32768;
    config.block_size = 2048;
  } else if (name == "1.2b") {
    config.family = Family::llama;
    config.n_layer = 22;
    config.n_head = 16;
    config.n_embd = 2048;
    config.vocab_size = 32000;
  } else if (name != "124m") {
    throw std::runtime_error("models are 124m, 112m and 1.2b");
  }
  return config;
}

// Of matrix products, forward and backward: 6 a weight, and attention's, of which a causal mask
// leaves half.
double flops_a_token(const ModelConfig& c) {
  const double C = static_cast<double>(c.n_embd), A = static_cast<double>(c.attention_width());
  const double up = c.family == Family::llama ? 3 : 2;
  const double layer = C * (A + 2.0 * static_cast<double>(c.kv_heads() * c.head_dim())) + A * C +
                       up * C * static_cast<double>(c.ffn());
  const double weights =
      static_cast<double>(c.n_layer) * layer + static_cast<double>(c.vocab_size) * C;
  return 6 * weights + 6 * static_cast<double>(c.n_layer * c.block_size) * A;
}

Batch random_batch(const ModelConfig& config, int64_t rows, uint64_t seed) {
  Batch batch;
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  const auto token = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(config.vocab_size));
  };
  for (int64_t row = 0; row < rows; ++row) {
    batch.cu_seqlens.push_back(static_cast<int32_t>(row * config.block_size));
    batch.example_ids.push_back(static_cast<uint64_t>(row));
    for (int64_t p = 0; p < config.block_size; ++p) {
      batch.learned.push_back(static_cast<int32_t>(batch.tokens.size()));
      batch.tokens.push_back(token());
      batch.targets.push_back(token());
      batch.positions.push_back(static_cast<int32_t>(p));
    }
  }
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
  batch.max_seqlen = static_cast<int32_t>(config.block_size);
  batch.rows = rows;
  return batch;
}

// The state of a run as the trainer has it, its update as one pass over the flat buffer.
class Training {
 public:
  Training(const ops::DeviceTable& table, const ModelConfig& config, bool graphs)
      : table_(table),
        parameters_(config, at::kFloat, at::kBFloat16, true, {}, gpu()),
        exp_avg_(at::zeros_like(parameters_.master())),
        exp_avg_sq_(at::zeros_like(parameters_.master())),
        update_(at::empty({static_cast<int64_t>(sizeof(ops::DeviceUpdate))},
                          at::TensorOptions(at::kByte).device(gpu()))) {
    {
      Parameters host(config, at::kFloat, at::kBFloat16, false);
      initialise(host, 1);
      host.refresh_compute();
      parameters_.copy_from(host);
    }
    EngineOptions options;
    options.graphs = graphs;
    engine_ = std::make_unique<Engine>(parameters_, options);
    ops::DeviceUpdate update;
    update.lr = 1e-4;
    table_.upload(update_.data_ptr(), &update, sizeof update);
  }

  void step(const Batch& batch, uint64_t number) {
    parameters_.zero_gradients();
    engine_->forward_backward(batch, number);
    auto* sums = static_cast<ops::DeviceSums*>(engine_->device_sums().data_ptr());
    auto* update = static_cast<ops::DeviceUpdate*>(update_.data_ptr());
    const ops::UpdateSettings settings;
    table_.sum_of_squares(&sums->sum_of_squares, parameters_.gradients());
    table_.prepare_update(update, sums, settings);
    table_.adamw(parameters_.master(), parameters_.compute(), parameters_.gradients(), exp_avg_,
                 exp_avg_sq_, update, settings, 0.1);
  }

  double loss() const {
    const at::Tensor host = update_.to(at::kCPU);
    return static_cast<const ops::DeviceUpdate*>(host.const_data_ptr())->loss;
  }

 private:
  static c10::Device gpu() { return {c10::DeviceType::CUDA, 0}; }

  const ops::DeviceTable& table_;
  Parameters parameters_;
  at::Tensor exp_avg_, exp_avg_sq_, update_;
  std::unique_ptr<Engine> engine_;
};

void train(const ops::DeviceTable& table, std::string_view model, int64_t rows, int steps,
           bool graphs, Json& out) {
  const ModelConfig config = model_of(model);
  Training training(table, config, graphs);
  std::vector<Batch> batches;
  for (uint64_t seed = 0; seed < 4; ++seed) batches.push_back(random_batch(config, rows, seed));
  uint64_t number = 0;
  const auto step = [&] {
    training.step(batches[number % batches.size()], number);
    ++number;
  };
  for (int i = 0; i < 5; ++i) step();  // run, recorded, replayed
  const double tokens = static_cast<double>(rows * config.block_size);
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i)
    rates.push_back(tokens / seconds_of(table, std::max(steps / 5, 1), step));
  ops::DeviceMemory memory;
  table.memory(&memory);
  const Json rate = spread(rates);
  out["model"] = model;
  out["rows"] = rows;
  out["graphs"] = graphs;
  out["tokens_per_s"] = rate;
  out["tflops"] = rate["median"].get<double>() * flops_a_token(config) / 1e12;
  out["peak_bytes"] = memory.peak;
  out["loss"] = training.loss();
}

int run(int argc, char** argv) {
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  if (words.empty() || (words[0] != "roofline" && words.size() < 3)) {
    std::fprintf(stderr, "usage: gpu_bench roofline | gpu_bench MODEL ROWS STEPS [eager]\n");
    return 2;
  }
  Json out = Json::object();
  const ops::DeviceTable& table = open_plugin(out);
  if (words[0] == "roofline")
    roofline(table, out);
  else
    train(table, words[0], std::stoll(std::string(words[1])), std::stoi(std::string(words[2])),
          words.size() < 4 || words[3] != "eager", out);
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 1;
  }
}

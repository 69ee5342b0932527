// Training steps on a GPU, without data, evaluation or checkpoints: the engine, the update, their
// graphs. And what the card can do at most: a large product, a large copy; and the products of a
// model's linear layers in bf16 and with 8-bit operands. JSON on stdout.
//
//   gpu_bench roofline
//   gpu_bench products MODEL ROWS
//   gpu_bench MODEL ROWS STEPS [eager] [fp8]     MODEL: 124m, 112m, 1.2b; ROWS of a micro-batch
//
// The plugin: $TRAIN_SFT_CUDA_PLUGIN, or libtrain_sft_cuda.so beside the program.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
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

bool fp8_of(const ops::DeviceTable& table) {
  return table.fp8_matmul != nullptr && table.fp8_quantize != nullptr;
}

// A matrix with what its 8-bit rounding needs; scale 1.
class EightBits {
 public:
  explicit EightBits(const at::Tensor& matrix, ops::Fp8Format format = ops::Fp8Format::e4m3)
      : matrix_(matrix),
        format_(format),
        values_(at::empty_like(matrix, matrix.options().dtype(at::kByte))),
        turned_(at::empty({matrix.size(1), matrix.size(0)}, values_.options())),
        one_(at::ones({1}, matrix.options().dtype(at::kFloat))),
        amax_(at::zeros({1}, matrix.options().dtype(at::kFloat))) {
    const ops::DeviceTable* table = ops::device_table(matrix);
    table->fp8_quantize(values_, turned_, amax_, matrix_, one_, format_);
  }
  ops::Fp8Operand operand() const { return {values_, one_, format_}; }
  ops::Fp8Operand turned() const { return {turned_, one_, format_}; }
  // As a step rounds it: as it lies, or turned.
  void round(const ops::DeviceTable& table, bool turned) const {
    table.fp8_quantize(turned ? at::Tensor() : values_, turned ? turned_ : at::Tensor(), amax_,
                       matrix_, one_, format_);
  }

 private:
  at::Tensor matrix_;
  ops::Fp8Format format_;
  at::Tensor values_, turned_, one_, amax_;
};

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
  if (!fp8_of(table)) return;
  const EightBits x(a), y(b);
  const auto eight_bits = [&] { table.fp8_matmul(c, x.operand(), y.operand(), {}, false); };
  seconds_of(table, 5, eight_bits);
  flops.clear();
  for (int i = 0; i < 5; ++i)
    flops.push_back(2.0 * n * n * n / seconds_of(table, 20, eight_bits) / 1e12);
  out["fp8_tflops"] = spread(flops);
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

// TFLOP/s of y = x wᵀ, of both its gradients, in bf16; with 8-bit operands; and with the rounding
// of the operands that are not weights, as a step does it.
Json products_of(const ops::DeviceTable& table, int64_t tokens, int64_t in, int64_t out) {
  const at::TensorOptions options =
      at::TensorOptions(at::kBFloat16).device(c10::DeviceType::CUDA, 0);
  const at::Tensor x = at::randn({tokens, in}).to(options), w = at::randn({out, in}).to(options);
  const at::Tensor dy = at::randn({tokens, out}).to(options), y = at::empty_like(dy);
  const at::Tensor dx = at::empty_like(x), dw = at::zeros({out, in}, options.dtype(at::kFloat));
  const double flops = 2.0 * static_cast<double>(tokens * in * out) / 1e12;
  const auto rate = [&](const std::function<void()>& work) {
    seconds_of(table, 3, work);
    std::vector<double> rates;
    for (int i = 0; i < 5; ++i) rates.push_back(flops / seconds_of(table, 10, work));
    return spread(rates);
  };
  Json line = {{"tokens", tokens}, {"in", in}, {"out", out}};
  line["forward"]["bf16"] = rate([&] { table.gemm(y, x, false, w, true, 1, {}, false); });
  line["input_gradient"]["bf16"] = rate([&] { table.gemm(dx, dy, false, w, false, 1, {}, false); });
  line["weight_gradient"]["bf16"] = rate([&] { table.gemm(dw, dy, true, x, false, 1, {}, true); });
  if (!fp8_of(table)) return line;
  const EightBits x8(x), w8(w), dy8(dy, ops::Fp8Format::e5m2);
  const auto forward = [&] { table.fp8_matmul(y, x8.operand(), w8.operand(), {}, false); };
  const auto input = [&] { table.fp8_matmul(dx, dy8.operand(), w8.turned(), {}, false); };
  const auto weight = [&] { table.fp8_matmul(dw, dy8.turned(), x8.turned(), {}, true); };
  const auto both = [&](const char* name, const std::function<void()>& product,
                        const std::function<void()>& rounding) {
    line[name]["fp8"] = rate(product);
    line[name]["fp8_rounded"] = rate([&] {
      rounding();
      product();
    });
  };
  both("forward", forward, [&] { x8.round(table, false); });
  both("input_gradient", input, [&] { dy8.round(table, false); });
  both("weight_gradient", weight, [&] {
    x8.round(table, true);
    dy8.round(table, true);
  });
  return line;
}

void products(const ops::DeviceTable& table, std::string_view model, int64_t rows, Json& out) {
  const ModelConfig c = model_of(model);
  const int64_t tokens = rows * c.block_size, up = (c.family == Family::llama ? 2 : 1) * c.ffn();
  const int64_t qkv = (c.n_head + 2 * c.kv_heads()) * c.head_dim();
  out["products"] = {{"qkv", products_of(table, tokens, c.n_embd, qkv)},
                     {"proj", products_of(table, tokens, c.attention_width(), c.n_embd)},
                     {"up", products_of(table, tokens, c.n_embd, up)},
                     {"down", products_of(table, tokens, c.ffn(), c.n_embd)}};
}

// The state of a run as the trainer has it, its update as one pass over the flat buffer.
class Training {
 public:
  Training(const ops::DeviceTable& table, const ModelConfig& config, bool graphs, bool fp8)
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
    options.fp8.on = fp8;
    engine_ = std::make_unique<Engine>(parameters_, options);
    ops::DeviceUpdate update;
    update.lr = 1e-4;
    table_.upload(update_.data_ptr(), &update, sizeof update);
  }

  void step(const Batch& batch, uint64_t number) {
    parameters_.zero_gradients();
    engine_->forward_backward(batch, number);
    engine_->end_step();
    auto* sums = static_cast<ops::DeviceSums*>(engine_->device_sums().data_ptr());
    auto* update = static_cast<ops::DeviceUpdate*>(update_.data_ptr());
    const ops::UpdateSettings settings;
    table_.sum_of_squares(&sums->sum_of_squares, parameters_.gradients());
    table_.prepare_update(update, sums, settings);
    table_.adamw(parameters_.master(), parameters_.compute(), parameters_.gradients(), exp_avg_,
                 exp_avg_sq_, {}, update, settings, 0.1);
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
           bool graphs, bool fp8, Json& out) {
  const ModelConfig config = model_of(model);
  if (fp8 && !fp8_of(table)) throw std::runtime_error("this GPU has no 8-bit products");
  Training training(table, config, graphs, fp8);
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
  out["precision"] = fp8 ? "fp8" : "bf16";
  out["tokens_per_s"] = rate;
  out["tflops"] = rate["median"].get<double>() * flops_a_token(config) / 1e12;
  out["peak_bytes"] = memory.peak;
  out["loss"] = training.loss();
}

int run(int argc, char** argv) {
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  if (words.empty() || (words[0] != "roofline" && words.size() < 3)) {
    std::fprintf(stderr,
                 "usage: gpu_bench roofline | gpu_bench products MODEL ROWS | "
                 "gpu_bench MODEL ROWS STEPS [eager] [fp8]\n");
    return 2;
  }
  Json out = Json::object();
  const ops::DeviceTable& table = open_plugin(out);
  const auto said = [&](std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  const auto number = [](std::string_view word) { return std::stoll(std::string(word)); };
  if (words[0] == "roofline")
    roofline(table, out);
  else if (words[0] == "products")
    products(table, words[1], number(words[2]), out);
  else
    train(table, words[0], number(words[1]), static_cast<int>(number(words[2])), !said("eager"),
          said("fp8"), out);
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

// A model .bin of llm.c (karpathy/llm.c, write_model of train_gpt2.py and
// gpt2_build_from_checkpoint of train_gpt2.c): 256 int32 of header, then GPT-2's parameters kind by
// kind, each for all layers; matrices are [out, in], the embedding has rows up to a padded
// vocabulary.
#include <cstring>

#include "interop/map_file.h"
#include "interop/source_parts.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr uint64_t kHeaderBytes = 1024;
constexpr int32_t kFloat32Version = 3, kBfloat16Version = 5;

struct LlmcHeader {
  int32_t magic, version, block_size, vocab_size, n_layer, n_head, n_embd, padded_vocab;
};

LlmcHeader read_header(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kHeaderBytes)
    throw CheckpointError("{}: {} bytes are too few for llm.c's header of {}", path, bytes.size(),
                          kHeaderBytes);
  LlmcHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.version != kFloat32Version && header.version != kBfloat16Version)
    throw CheckpointError(
        "{}: version {} of llm.c's model format at byte 4; 3 (fp32) and 5 (bf16) are read, which "
        "its train_gpt2.py writes",
        path, header.version);
  const std::pair<const char*, int32_t> sizes[] = {
      {"max_seq_len", header.block_size}, {"vocab_size", header.vocab_size},
      {"num_layers", header.n_layer},     {"num_heads", header.n_head},
      {"channels", header.n_embd},        {"padded_vocab_size", header.padded_vocab}};
  for (const auto& [name, value] : sizes)
    if (value < 1 || value > (1 << 28))
      throw CheckpointError("{}: header field {} is {}, expected a size", path, name, value);
  if (header.padded_vocab < header.vocab_size)
    throw CheckpointError("{}: padded_vocab_size {} is less than vocab_size {}", path,
                          header.padded_vocab, header.vocab_size);
  return header;
}

// Cuts the parameters off one after another.
class Cutter {
 public:
  Cutter(std::span<const std::byte> bytes, TensorType type, const std::string& path)
      : left_(bytes), type_(type), path_(path) {}

  // `kept` of `rows` rows of the shape that follows.
  SourceTensor cut(const std::string& name, std::vector<int64_t> shape, int64_t kept) {
    auto bytes = static_cast<uint64_t>(info(type_).block_bytes);
    bool overflow = false;
    for (const int64_t size : shape)
      overflow |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes);
    if (overflow || bytes > left_.size())
      throw CheckpointError("{}: '{}' goes past the end of the file; it was cut off", path_, name);
    const size_t used = bytes / static_cast<size_t>(shape[0]) * static_cast<size_t>(kept);
    shape[0] = kept;
    SourceTensor tensor{name, type_, shape, left_.first(used)};
    left_ = left_.subspan(bytes);
    return tensor;
  }
  SourceTensor cut(const std::string& name, const std::vector<int64_t>& shape) {
    return cut(name, shape, shape[0]);
  }
  uint64_t left() const { return left_.size(); }

 private:
  std::span<const std::byte> left_;
  TensorType type_;
  const std::string& path_;
};

std::vector<SourceTensor> cut_tensors(Cutter& cutter, const ModelConfig& config,
                                      int64_t padded_vocab) {
  const int64_t C = config.n_embd;
  std::vector<SourceTensor> tensors;
  tensors.push_back(cutter.cut("transformer.wte.weight", {padded_vocab, C}, config.vocab_size));
  tensors.push_back(cutter.cut("transformer.wpe.weight", {config.block_size, C}));
  const std::pair<const char*, std::vector<int64_t>> kinds[] = {{"ln_1.weight", {C}},
                                                                {"ln_1.bias", {C}},
                                                                {"attn.c_attn.weight", {3 * C, C}},
                                                                {"attn.c_attn.bias", {3 * C}},
                                                                {"attn.c_proj.weight", {C, C}},
                                                                {"attn.c_proj.bias", {C}},
                                                                {"ln_2.weight", {C}},
                                                                {"ln_2.bias", {C}},
                                                                {"mlp.c_fc.weight", {4 * C, C}},
                                                                {"mlp.c_fc.bias", {4 * C}},
                                                                {"mlp.c_proj.weight", {C, 4 * C}},
                                                                {"mlp.c_proj.bias", {C}}};
  for (const auto& [kind, shape] : kinds)
    for (int64_t layer = 0; layer < config.n_layer; ++layer)
      tensors.push_back(cutter.cut(fmt::format("transformer.h.{}.{}", layer, kind), shape));
  tensors.push_back(cutter.cut("transformer.ln_f.weight", {C}));
  tensors.push_back(cutter.cut("transformer.ln_f.bias", {C}));
  return tensors;
}

Expected expected_of_llmc(const std::string& name) {
  Expected expected{name};
  if (is_conv1d_weight(name)) expected.rearrange = Rearrange::transpose;
  return expected;
}

}  // namespace

ModelSource open_llmc(const std::string& path) {
  const auto file = std::make_shared<const MappedFile>(map_model_file(path));
  const LlmcHeader header = read_header(file->bytes(), path);
  ModelSource model;
  model.path = path;
  model.format = "llm.c .bin";
  model.files.push_back(file);
  model.config.family = Family::gpt2;
  model.config.n_layer = header.n_layer;
  model.config.n_head = header.n_head;
  model.config.n_embd = header.n_embd;
  model.config.ffn_hidden = 4 * int64_t{header.n_embd};
  model.config.vocab_size = header.vocab_size;
  model.config.block_size = header.block_size;
  check_config(model);
  Cutter cutter(file->bytes().subspan(kHeaderBytes),
                header.version == kFloat32Version ? TensorType::f32 : TensorType::bf16, model.path);
  const auto tensors = cut_tensors(cutter, model.config, header.padded_vocab);
  if (cutter.left() != 0)
    throw CheckpointError(
        "{}: {} bytes follow the last parameter; the header does not fit the file", path,
        cutter.left());
  match_parameters(model, tensors, expected_of_llmc);
  return model;
}

}  // namespace train_sft

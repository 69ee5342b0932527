// A .pt file of torch.save in nanoGPT's naming (karpathy/nanoGPT, model.py): either
// {'model': state dict, 'model_args': {...}, ...} or the state dict itself. Its Linear matrices are
// [out, in] where GPT-2's Conv1D has [in, out].
#include <algorithm>
#include <set>

#include "interop/pickle.h"
#include "interop/source_parts.h"
#include "interop/zip_file.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr uint64_t kMaxPickleBytes = uint64_t{16} << 20;
// torch.compile wraps a model in a module of this name.
constexpr std::string_view kCompiledPrefix = "_orig_mod.";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "transformer.wte.weight";

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The archive's folder: "archive", or the file's name as it was saved.
std::string folder_of(const ZipFile& zip, const std::string& path) {
  for (const auto& [name, bytes] : zip.members())
    if (name.ends_with("/data.pkl")) return name.substr(0, name.size() - 8);
  throw CheckpointError("{}: is a zip archive without data.pkl; torch.save writes one", path);
}

class TorchFile {
 public:
  explicit TorchFile(const std::string& path)
      : path_(path), zip_(path), folder_(folder_of(zip_, path)) {
    const auto* order = zip_.find(folder_ + "byteorder");
    if (order != nullptr && text_of(*order) != "little")
      throw CheckpointError("{}: was saved on a big-endian machine; convert it there", path);
    const auto& pickle = *zip_.find(folder_ + "data.pkl");
    if (pickle.size() > kMaxPickleBytes)
      throw CheckpointError("{}: data.pkl has {} bytes, more than any model's ({})", path,
                            pickle.size(), kMaxPickleBytes);
    document_ = pickle::parse(pickle, path + ": " + folder_ + "data.pkl");
  }

  const pickle::Document& document() const { return document_; }
  const pickle::Object& root() const { return document_.at(document_.root); }

  SourceTensor tensor(const std::string& name, const pickle::Object& object) const;

 private:
  std::string path_;
  ZipFile zip_;
  std::string folder_;
  pickle::Document document_;
};

SourceTensor TorchFile::tensor(const std::string& name, const pickle::Object& object) const {
  const pickle::Object& storage = document_.at(object.items[0]);
  const auto type = tensor_type_of_torch(storage.storage_class);
  if (!type)
    throw CheckpointError("{}: tensor '{}' has a {}; Double, Float, Half and BFloat16 are read",
                          path_, name, storage.storage_class);
  const auto* bytes = zip_.find(folder_ + "data/" + storage.text);
  if (bytes == nullptr)
    throw CheckpointError("{}: tensor '{}': its storage data/{} is missing", path_, name,
                          storage.text);
  int64_t count = 1;
  for (size_t d = object.shape.size(); d-- > 0;) {
    if (object.shape[d] != 1 && object.strides[d] != count)
      throw CheckpointError(
          "{}: tensor '{}' is a view with gaps or another order; save it with .contiguous()", path_,
          name);
    if (__builtin_mul_overflow(count, object.shape[d], &count))
      throw CheckpointError("{}: tensor '{}': its shape overflows", path_, name);
  }
  const auto element = static_cast<uint64_t>(info(*type).block_bytes);
  const uint64_t elements = bytes->size() / element;
  const auto offset = static_cast<uint64_t>(object.integer), wanted = static_cast<uint64_t>(count);
  if (offset > elements || wanted > elements - offset)
    throw CheckpointError("{}: tensor '{}' needs {} elements from {} on, its storage has {}", path_,
                          name, wanted, offset, elements);
  return {name, *type, object.shape, bytes->subspan(offset * element, wanted * element)};
}

std::vector<SourceTensor> state_dict(const TorchFile& file, const pickle::Object& dictionary,
                                     const std::string& path) {
  std::vector<SourceTensor> tensors;
  std::set<std::string> names;
  for (size_t i = 0; i + 1 < dictionary.items.size(); i += 2) {
    const pickle::Object& key = file.document().at(dictionary.items[i]);
    const pickle::Object& value = file.document().at(dictionary.items[i + 1]);
    if (key.kind != pickle::Kind::text || value.kind != pickle::Kind::tensor)
      throw CheckpointError(
          "{}: is neither a state dict (names and tensors) nor holds one under 'model'", path);
    std::string name = key.text;
    if (name.starts_with(kCompiledPrefix)) name = name.substr(kCompiledPrefix.size());
    if (!names.insert(name).second)
      throw CheckpointError("{}: tensor '{}' is there twice", path, name);
    if (name.ends_with(".attn.bias")) continue;  // nanoGPT's causal mask, where flash is missing
    tensors.push_back(file.tensor(name, value));
  }
  return tensors;
}

const SourceTensor& required(const std::vector<SourceTensor>& tensors, const std::string& name,
                             size_t dimensions, const std::string& path) {
  for (const SourceTensor& tensor : tensors)
    if (tensor.name == name && tensor.shape.size() == dimensions) return tensor;
  throw CheckpointError(
      "{}: no tensor '{}' of {} dimensions; .pt files are read in nanoGPT's naming", path, name,
      dimensions);
}

int64_t count_layers(const std::vector<SourceTensor>& tensors) {
  std::set<std::string> layers;
  constexpr std::string_view kPrefix = "transformer.h.";
  for (const SourceTensor& tensor : tensors)
    if (tensor.name.starts_with(kPrefix))
      layers.insert(tensor.name.substr(kPrefix.size(),
                                       tensor.name.find('.', kPrefix.size()) - kPrefix.size()));
  return static_cast<int64_t>(layers.size());
}

// Sizes follow from the tensors; the number of heads does not.
int64_t heads_of(const TorchFile& file, const OpenOptions& options, const std::string& path) {
  const pickle::Object* arguments = file.document().find(file.root(), "model_args");
  const pickle::Object* heads =
      arguments == nullptr ? nullptr : file.document().find(*arguments, "n_head");
  if (heads != nullptr && heads->kind == pickle::Kind::integer) return heads->integer;
  if (options.n_head > 0) return options.n_head;
  throw CheckpointError("{}: does not say how many attention heads there are; add --n_head N",
                        path);
}

ModelConfig read_config(const std::vector<SourceTensor>& tensors, int64_t heads,
                        const std::string& path) {
  ModelConfig config;
  config.family = Family::gpt2;
  const SourceTensor& embedding = required(tensors, kEmbedding, 2, path);
  config.vocab_size = embedding.shape[0];
  config.n_embd = embedding.shape[1];
  config.block_size = required(tensors, "transformer.wpe.weight", 2, path).shape[0];
  config.n_layer = count_layers(tensors);
  config.n_head = heads;
  config.ffn_hidden = required(tensors, "transformer.h.0.mlp.c_fc.weight", 2, path).shape[0];
  return config;
}

// nanoGPT's state dict holds the tied embedding under both names.
bool drop_tied_head(std::vector<SourceTensor>& tensors, const std::string& path) {
  const SourceTensor& embedding = required(tensors, kEmbedding, 2, path);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name != kHead) continue;
    const bool same = tensors[i].type == embedding.type && tensors[i].shape == embedding.shape &&
                      std::equal(tensors[i].bytes.begin(), tensors[i].bytes.end(),
                                 embedding.bytes.begin(), embedding.bytes.end());
    if (same) tensors.erase(tensors.begin() + static_cast<ptrdiff_t>(i));
    return same;
  }
  return true;
}

Expected expected_of_nanogpt(const std::string& name) {
  Expected expected{name};
  expected.optional = name.ends_with(".bias");  // nanoGPT's bias=False
  if (is_conv1d_weight(name)) expected.rearrange = Rearrange::transpose;
  return expected;
}

}  // namespace

ModelSource open_torch(const std::string& path, const OpenOptions& options) {
  ModelSource model;
  model.path = path;
  model.format = "nanoGPT .pt";
  const auto file = std::make_shared<const TorchFile>(model.path);
  model.files.push_back(file);
  const pickle::Object* weights = file->document().find(file->root(), "model");
  if (weights == nullptr) weights = &file->root();
  if (weights->kind != pickle::Kind::dictionary || weights->items.empty())
    throw CheckpointError("{}: holds no state dict", path);
  std::vector<SourceTensor> tensors = state_dict(*file, *weights, path);
  model.config = read_config(tensors, heads_of(*file, options, path), path);
  model.config.tie_embeddings = drop_tied_head(tensors, path);
  check_config(model);
  match_parameters(model, tensors, expected_of_nanogpt);
  model.notes.emplace_back(
      "nanoGPT's own model.py computes GELU exactly, GPT-2 (and this program) by its tanh form: "
      "logits of a model trained there differ by some 1e-3");
  return model;
}

}  // namespace train_sft

// A .pt file in nanoGPT's naming, as torch.save would write it: a zip archive with the pickle of
// {'model': OrderedDict of tensors, 'model_args': {...}} and a member a tensor. torch.load reads it
// with weights_only=True.
#include <cstring>

#include "interop/parameter_bytes.h"
#include "interop/rearrange.h"
#include "interop/source_parts.h"
#include "interop/zip_file.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/model_export.h"

namespace train_sft {
namespace {

const std::string kFolder = "archive/";

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// Opcodes of protocol 2; see interop/pickle.cpp.
class PickleWriter {
 public:
  PickleWriter() { out_ = "\x80\x02"; }

  void text(const std::string& value) {
    out_ += 'X' + raw(static_cast<uint32_t>(value.size())) + value;
  }
  void integer(int64_t value) {
    if (value >= 0 && value <= INT32_MAX)
      out_ += 'J' + raw(static_cast<int32_t>(value));
    else
      out_ += std::string("\x8a\x08") + raw(value);
  }
  void boolean(bool value) { out_ += value ? '\x88' : '\x89'; }
  void number(double value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    out_ += 'G' + raw(__builtin_bswap64(bits));
  }
  void global(const std::string& module, const std::string& name) {
    out_ += 'c' + module + '\n' + name + '\n';
  }
  void integers(const std::vector<int64_t>& values) {
    mark();
    for (const int64_t value : values) integer(value);
    tuple();
  }
  void mark() { out_ += '('; }
  void tuple() { out_ += 't'; }  // of all since the mark
  void dictionary() { out_ += '}'; }
  void ordered_dictionary() {
    global("collections", "OrderedDict");
    out_ += ")R";
  }
  void set_items() { out_ += 'u'; }  // since the mark, into the dictionary before it
  void reference() { out_ += 'Q'; }
  void call() { out_ += 'R'; }
  std::string finish() { return out_ + '.'; }

 private:
  std::string out_;
};

void put_tensor(PickleWriter& pickle, TensorType type, size_t key,
                const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  int64_t count = 1;
  for (size_t d = shape.size(); d-- > 0; count *= shape[d]) strides[d] = count;
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.text("storage");
  pickle.global("torch", info(type).torch_class);
  pickle.text(std::to_string(key));
  pickle.text("cpu");
  pickle.integer(count);
  pickle.tuple();
  pickle.reference();
  pickle.integer(0);
  pickle.integers(shape);
  pickle.integers(strides);
  pickle.boolean(false);
  pickle.ordered_dictionary();
  pickle.tuple();
  pickle.call();
}

void put_arguments(PickleWriter& pickle, const ModelConfig& config) {
  pickle.dictionary();
  pickle.mark();
  const std::pair<const char*, int64_t> sizes[] = {
      {"n_layer", config.n_layer},       {"n_head", config.n_head},
      {"n_embd", config.n_embd},         {"block_size", config.block_size},
      {"vocab_size", config.vocab_size},
  };
  for (const auto& [name, value] : sizes) {
    pickle.text(name);
    pickle.integer(value);
  }
  pickle.text("bias");
  pickle.boolean(true);
  pickle.text("dropout");
  pickle.number(0.0);
  pickle.set_items();
}

// model.py fixes what our configuration leaves free.
void check_expressible(const ModelConfig& config, const std::string& path) {
  const auto refuse = [&](const std::string& what) {
    throw CheckpointError(
        "{}: nanoGPT's naming cannot express {}; export it with --format hf or gguf", path, what);
  };
  if (config.family != Family::gpt2) refuse("a model of another family than GPT-2");
  if (!config.tie_embeddings) refuse("an output layer apart from the embedding");
  if (config.ffn() != 4 * config.n_embd) refuse(fmt::format("ffn_hidden {}", config.ffn()));
  if (config.norm_eps != 1e-5) refuse(fmt::format("norm_eps {}", config.norm_eps));
}

}  // namespace

void write_torch(const ModelSource& model, const std::string& path, TensorType type) {
  TRAIN_SFT_CHECK(*info(type).torch_class != '\0', "{}", info(type).name);
  check_expressible(model.config, model.path);
  const ParameterLayout layout = parameter_layout(model.config);
  PickleWriter pickle;
  pickle.dictionary();
  pickle.mark();
  pickle.text("model");
  pickle.ordered_dictionary();
  pickle.mark();
  for (size_t i = 0; i < layout.parameters.size(); ++i) {
    const ParameterInfo& parameter = layout.parameters[i];
    std::vector<int64_t> shape = parameter.shape;
    if (is_conv1d_weight(parameter.name)) std::swap(shape[0], shape[1]);
    pickle.text(parameter.name);
    put_tensor(pickle, type, i, shape);
  }
  pickle.text("lm_head.weight");  // the same storage: tied
  put_tensor(pickle, type, 0, layout.parameters[0].shape);
  pickle.set_items();
  pickle.text("model_args");
  put_arguments(pickle, model.config);
  pickle.set_items();

  ZipWriter zip(path);
  const auto add_text = [&](const std::string& name, const std::string& text) {
    zip.add(kFolder + name, std::as_bytes(std::span(text)));
  };
  add_text("data.pkl", pickle.finish());
  add_text("byteorder", "little");
  for (size_t i = 0; i < layout.parameters.size(); ++i) {
    const ParameterInfo& parameter = layout.parameters[i];
    std::vector<float> values = parameter_values(model, parameter);
    if (is_conv1d_weight(parameter.name))
      values = transposed(values, parameter.shape[0], parameter.shape[1]);
    zip.add(fmt::format("{}data/{}", kFolder, i), bytes_of(model, parameter.name, values, type));
  }
  add_text("version", "3\n");
  zip.finish();
}

}  // namespace train_sft

// .pt files and llm.c's .bin files: what is malformed is refused with its place, and nothing that a
// pickle asks for is executed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "interop/pickle.h"
#include "interop/zip_file.h"
#include "support/python.h"
#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/interop/model_source.h"

namespace train_sft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string read_bytes(const std::string& path) {
  return read_file(path);
}
void write_torch_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

template <size_t N>
std::string literal(const char (&text)[N]) {
  return {text, N - 1};
}

pickle::Document parse(const std::string& bytes) {
  return pickle::parse(std::as_bytes(std::span(bytes)), "test.pkl");
}
std::string pickle_error(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST(PickleTest, PlainDataIsRead) {
  // {'a': (1, -2, True), 'b': [0.5, None]}
  const auto document =
      parse(literal("\x80\x02}(X\x01\0\0\0aK\x01J\xfe\xff\xff\xff\x88\x87X\x01\0\0\0b](G"
                    "\x3f\xe0\0\0\0\0\0\0Neu."));

  const auto& root = document.at(document.root);
  const auto* a = document.find(root, "a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->kind, pickle::Kind::tuple);
  EXPECT_EQ(document.at(a->items[1]).integer, -2);
  const auto* b = document.find(root, "b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(document.at(b->items[0]).number, 0.5);
  EXPECT_EQ(document.at(b->items[1]).kind, pickle::Kind::none);
}

TEST(PickleTest, CodeIsNamedAndNeverRun) {
  EXPECT_THAT(pickle_error("cos\nsystem\n(X\x02\0\0\0idtR."), HasSubstr("'os.system'"));
  EXPECT_THAT(pickle_error("c__builtin__\neval\n."), HasSubstr("'__builtin__.eval'"));
  EXPECT_THAT(pickle_error("ctorch.evil\nStorage\n."), HasSubstr("torch.evil.Storage"));
  EXPECT_THAT(pickle_error("ios\nsystem\n."), HasSubstr("opcode 0x69"));
  EXPECT_THAT(pickle_error(std::string("\x8c\x02os\x8c\x06system\x93.")), HasSubstr("'os.system'"));
  EXPECT_THAT(pickle_error(std::string("\x82\x01.")), HasSubstr("opcode 0x82"));
}

TEST(PickleTest, MalformedPicklesAreRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("."), std::string("R."), std::string("t."), std::string("(R."),
        std::string("(."), std::string("h\x05."), std::string("\x80\x09."), std::string("}a."),
        std::string("X\xff\xff\xff\xff."), std::string("\x8a\x09"), std::string("](u."),
        std::string("}(Nu."), std::string("NQ."), std::string("N}b."), std::string("}Nb."),
        std::string("(\x85."), std::string("ccollections\nOrderedDict\nNR."),
        std::string("ctorch._utils\n_rebuild_tensor_v2\n)R.")})
    EXPECT_THAT(pickle_error(bytes), HasSubstr("test.pkl")) << testing::PrintToString(bytes);
}

TEST(PickleTest, ASmallFileCannotFillTheMemory) {
  EXPECT_THAT(pickle_error(literal("\x80\x02(") + std::string(2'000'000, 'N') + "t."),
              HasSubstr("objects"));
  // A name that each of many references would copy.
  const std::string name(300, 'k');
  const std::string storage = literal("X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
  EXPECT_THAT(pickle_error("(" + storage + literal("X\x2c\x01\x00\x00") + name +
                           literal("X\x03\x00\x00\x00"
                                   "cpuK\x01tQ.")),
              HasSubstr("a storage's name of 300 bytes"));
  EXPECT_THAT(pickle_error("ctorch\n" + name + "Storage\n."), HasSubstr("name of 312 bytes"));
}

TEST(PickleTest, AListThatHoldsItselfIsOnlyData) {
  const auto document = parse(literal("]q\x00h\x00\x61."));
  const auto& root = document.at(document.root);
  ASSERT_EQ(root.items.size(), 1u);
  EXPECT_EQ(root.items[0], document.root);
}

class TorchFiles : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    python_ = run_python(R"(
import sys, os, struct, collections, torch
out = sys.argv[1] + '/'
torch.manual_seed(0)
C, V, T = 8, 16, 4
def layer(p, wide):
    return {p + '.weight': torch.randn(*wide), p + '.bias': torch.randn(wide[0])}
state = {'transformer.wte.weight': torch.randn(V, C), 'transformer.wpe.weight': torch.randn(T, C)}
for h in ('transformer.h.0.', 'transformer.h.1.'):
    for name, wide in (('ln_1', (C,)), ('attn.c_attn', (3 * C, C)), ('attn.c_proj', (C, C)), ('ln_2', (C,)),
                       ('mlp.c_fc', (4 * C, C)), ('mlp.c_proj', (C, 4 * C))):
        state.update(layer(h + name, wide))
state.update(layer('transformer.ln_f', (C,)))
state['lm_head.weight'] = state['transformer.wte.weight']
args = dict(n_layer=2, n_head=2, n_embd=C, block_size=T, vocab_size=V, bias=True, dropout=0.0)
def save(name, model, **more):
    torch.save({'model': model, 'model_args': args, 'iter_num': 7, 'best_val_loss': torch.tensor(1.5),
                'config': {'dataset': 'x', 'learning_rate': 1e-3}, **more}, out + name)
save('whole.pt', state)
save('compiled.pt', collections.OrderedDict(('_orig_mod.' + k, v) for k, v in state.items()))
torch.save(state, out + 'bare.pt')
save('half.pt', {k: v.half() for k, v in state.items()})
save('bfloat16.pt', {k: v.bfloat16() for k, v in state.items()})
save('no_bias.pt', {k: v for k, v in state.items() if not k.endswith('.bias')})
untied = dict(state); untied['lm_head.weight'] = torch.randn(V, C)
save('untied.pt', untied)
strided = dict(state); strided['transformer.h.0.attn.c_proj.weight'] = torch.randn(C, C).T
save('strided.pt', strided)
save('missing.pt', {k: v for k, v in state.items() if 'h.1.mlp.c_fc.weight' not in k})
save('extra.pt', {**state, 'transformer.h.0.rotary': torch.zeros(2)})
save('wrong_shape.pt', {**state, 'transformer.ln_f.weight': torch.zeros(3)})
save('integers.pt', {**state, 'transformer.ln_f.weight': torch.zeros(C, dtype=torch.int64)})
class Evil:
    def __reduce__(self): return os.system, ('touch ' + out + 'PWNED',)
save('evil.pt', state, extra=Evil())
torch.save(state, out + 'legacy.pt', _use_new_zipfile_serialization=False)
from safetensors.torch import save_file
save_file({k: v.clone() for k, v in state.items()}, out + 'state.safetensors')
for version, dtype in ((3, torch.float32), (5, torch.bfloat16)):
    header = struct.pack('<8i', 20240326, version, T, V, 2, 2, C, V + 5) + bytes(1024 - 32)
    raw = lambda t: t.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()
    body = raw(torch.cat([state['transformer.wte.weight'], torch.zeros(5, C)])) + raw(state['transformer.wpe.weight'])
    for kind in ('ln_1', 'attn.c_attn', 'attn.c_proj', 'ln_2', 'mlp.c_fc', 'mlp.c_proj'):
        for part in ('weight', 'bias'):
            for l in (0, 1): body += raw(state[f'transformer.h.{l}.{kind}.{part}'])
    body += raw(state['transformer.ln_f.weight']) + raw(state['transformer.ln_f.bias'])
    open(out + f'v{version}.bin', 'wb').write(header + body)
)",
                         {directory_->path()});
  }
  static void TearDownTestSuite() { directory_.reset(); }
  void SetUp() override {
    if (!python_.available) GTEST_SKIP() << python_.output;
    ASSERT_EQ(python_.exit_code, 0) << python_.output;
  }

  static std::string file(const std::string& name) { return *directory_ / name; }
  static std::vector<float> values(const ModelSource& model, const std::string& name) {
    size_t count = 1;
    for (const int64_t size : model.parameters.at(name).tensor.shape)
      count *= static_cast<size_t>(size);
    std::vector<float> out(count);
    read_parameter(model, name, out);
    return out;
  }
  static std::string error_of(const std::string& path, const OpenOptions& options = {}) {
    try {
      open_model(path, options);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }

  inline static std::unique_ptr<TemporaryDirectory> directory_;
  inline static PythonResult python_;
};

TEST_F(TorchFiles, EveryFormHoldsTheSameModel) {
  const ModelSource whole = open_model(file("whole.pt"));
  EXPECT_EQ(whole.config.n_head, 2);
  EXPECT_EQ(whole.config.n_layer, 2);
  EXPECT_TRUE(whole.config.tie_embeddings);
  for (const char* name : {"compiled.pt", "bare.pt", "v3.bin"}) {
    const ModelSource other = open_model(file(name), {.n_head = 2, .tokenizer = ""});
    EXPECT_EQ(other.config, whole.config) << name;
    for (const auto& [parameter, source] : whole.parameters)
      EXPECT_EQ(values(other, parameter), values(whole, parameter)) << name << " " << parameter;
  }
  const ModelSource rounded = open_model(file("bfloat16.pt")), packed = open_model(file("v5.bin"));
  for (const auto& [parameter, source] : rounded.parameters)
    EXPECT_EQ(values(rounded, parameter), values(packed, parameter)) << parameter;
  EXPECT_FALSE(open_model(file("untied.pt")).config.tie_embeddings);
  EXPECT_EQ(stored_type(open_model(file("half.pt")), "auto"), TensorType::f16);
  const auto zeros = values(open_model(file("no_bias.pt")), "transformer.ln_f.weight");
  EXPECT_EQ(zeros, values(whole, "transformer.ln_f.weight"));
}

TEST_F(TorchFiles, WhatCannotBeReadIsNamed) {
  EXPECT_THAT(error_of(file("bare.pt")), HasSubstr("--n_head"));
  EXPECT_THAT(error_of(file("strided.pt")), HasSubstr("'transformer.h.0.attn.c_proj.weight'"));
  EXPECT_THAT(error_of(file("missing.pt")), HasSubstr("'transformer.h.1.mlp.c_fc.weight'"));
  EXPECT_THAT(error_of(file("extra.pt")), HasSubstr("'transformer.h.0.rotary'"));
  EXPECT_THAT(error_of(file("wrong_shape.pt")), AllOf(HasSubstr("ln_f.weight"), HasSubstr("[3]")));
  EXPECT_THAT(error_of(file("integers.pt")), HasSubstr("LongStorage"));
  EXPECT_THAT(error_of(file("legacy.pt")), HasSubstr("no model file"));
  EXPECT_THAT(error_of(file("evil.pt")), HasSubstr("system"));
  EXPECT_FALSE(std::filesystem::exists(file("PWNED")));
}

TEST_F(TorchFiles, CutsAndDamageAreRefusedOrHarmless) {
  for (const char* name : {"whole.pt", "v3.bin"}) {
    const std::string whole = read_bytes(file(name));
    for (size_t length = 0; length < whole.size(); length += 1 + length / 23) {
      write_torch_file(file("cut"), whole.substr(0, length));
      EXPECT_NE(error_of(file("cut")), "") << name << " cut to " << length;
    }
    std::mt19937 random(11);
    for (int round = 0; round < 400; ++round) {
      std::string bytes = whole;
      // The archive's records and the pickle lie at its ends, the header of .bin in front.
      for (int flips = 0; flips < 1 + round % 5; ++flips) {
        const size_t span = std::min<size_t>(bytes.size(), 4096), place = random() % span;
        bytes[random() % 2 == 0 ? place : bytes.size() - 1 - place] = static_cast<char>(random());
      }
      write_torch_file(file("damaged"), bytes);
      try {
        const ModelSource model = open_model(file("damaged"));
        for (const auto& [parameter, source] : model.parameters) values(model, parameter);
      } catch (const CheckpointError&) {
      }
    }
  }
}

TEST_F(TorchFiles, TorchReadsWhatWeWrite) {
  const ModelSource model = open_model(file("whole.pt"));
  write_torch(model, file("ours.pt"), TensorType::f32);
  write_torch(model, file("ours_bf16.pt"), TensorType::bf16);
  const PythonResult result = run_python(R"(
import sys, torch, zipfile
from safetensors.torch import load_file
state = load_file(sys.argv[1] + '/state.safetensors')
for name, dtype in (('ours.pt', torch.float32), ('ours_bf16.pt', torch.bfloat16)):
    assert zipfile.ZipFile(sys.argv[1] + '/' + name).testzip() is None
    for more in ({}, {'mmap': True}):
        ours = torch.load(sys.argv[1] + '/' + name, weights_only=True, **more)
        assert ours['model_args'] == dict(n_layer=2, n_head=2, n_embd=8, block_size=4, vocab_size=16, bias=True, dropout=0.0)
        assert ours['model'].keys() == state.keys(), ours['model'].keys() ^ state.keys()
        for key, value in state.items():
            assert torch.equal(ours['model'][key], value.to(dtype)), key
        assert ours['model']['lm_head.weight'].data_ptr() == ours['model']['transformer.wte.weight'].data_ptr()
)",
                                         {directory_->path()});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const ModelSource again = open_model(file("ours.pt"));
  EXPECT_EQ(again.config, model.config);
}

TEST_F(TorchFiles, HeadersOfBinFilesAreChecked) {
  const std::string whole = read_bytes(file("v3.bin"));
  const auto with = [&](size_t field, int32_t value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + 4 * field, &value, 4);
    write_torch_file(file("bad.bin"), bytes);
    return error_of(file("bad.bin"));
  };
  EXPECT_THAT(with(1, 4), HasSubstr("version 4"));
  EXPECT_THAT(with(2, -1), HasSubstr("max_seq_len"));
  EXPECT_THAT(with(4, 1 << 27), HasSubstr("past the end"));
  EXPECT_THAT(with(4, 1), HasSubstr("follow the last parameter"));
  EXPECT_THAT(with(5, 3), HasSubstr("n_head"));
  EXPECT_THAT(with(7, 2), HasSubstr("padded_vocab_size"));
}

}  // namespace
}  // namespace train_sft

#include "fuzz/seeds.h"

#include <zlib.h>
#include <zstd.h>

#include "data/parts.h"
#include "data/stored_dataset.h"
#include "support/volatile_disk.h"
#include "train/checkpoint_files.h"
#include "train/tensorboard.h"
#include "train_sft/base/file.h"
#include "train_sft/config/model_config.h"
#include "train_sft/config/options.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/interop/model_export.h"
#include "train_sft/interop/model_source.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"
#include "unit/interop/gguf_builder.h"
#include "unit/text/sample_tokenizers.h"

namespace train_sft::seeds {
namespace {

ModelConfig tiny_gpt2() {
  ModelConfig config;
  config.n_layer = 1;
  config.n_head = 2;
  config.n_embd = 8;
  config.vocab_size = 4;
  config.block_size = 16;
  return config;
}

ModelConfig tiny_llama() {
  ModelConfig config = tiny_gpt2();
  config.family = Family::llama;
  config.n_kv_head = 1;
  config.ffn_hidden = 8;
  return config;
}

std::string model_of(const std::string& type, int64_t vocab_size) {
  TokenizerTraining training;
  training.type = type;
  training.vocab_size = vocab_size;
  return train_tokenizer({"the cat sat on the mat\n", "a dog, 12 birds and été\n"}, training);
}

// llama.cpp's names of our one layer's tensors, fastest dimension first.
std::string strings(const std::vector<std::string>& texts) {
  std::string bytes = GgufBuilder::raw(uint32_t{8}) + GgufBuilder::raw(uint64_t{texts.size()});
  for (const std::string& text : texts) bytes += GgufBuilder::text(text);
  return bytes;
}

std::string tiny_gguf(bool with_tokenizer) {
  GgufBuilder builder;
  builder.str("general.architecture", "llama")
      .u32("llama.block_count", 1)
      .u32("llama.attention.head_count", 2)
      .u32("llama.attention.head_count_kv", 1)
      .u32("llama.embedding_length", 8)
      .u32("llama.feed_forward_length", 8)
      .u32("llama.context_length", 16)
      .u32("llama.vocab_size", 4)
      .f32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .f32("llama.rope.freq_base", 1e4f);
  if (with_tokenizer)
    builder.str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "smollm")
        .value("tokenizer.ggml.tokens", 9, strings({"a", "b", "ab", "<s>"}))
        .value("tokenizer.ggml.token_type", 9,
               GgufBuilder::raw(uint32_t{5}) + GgufBuilder::raw(uint64_t{4}) +
                   GgufBuilder::raw(int32_t{1}) + GgufBuilder::raw(int32_t{1}) +
                   GgufBuilder::raw(int32_t{1}) + GgufBuilder::raw(int32_t{3}))
        .value("tokenizer.ggml.merges", 9, strings({"a b"}))
        .u32("tokenizer.ggml.bos_token_id", 3)
        .value("tokenizer.ggml.add_bos_token", 7, std::string(1, '\1'))
        .str("tokenizer.chat_template", "{{ messages }}");
  uint64_t offset = 0;
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& shape) {
    builder.tensor(name, shape, 0, offset);
    uint64_t values = 1;
    for (const uint64_t n : shape) values *= n;
    offset += (4 * values + 31) / 32 * 32;
  };
  add("token_embd.weight", {8, 4});
  add("blk.0.attn_norm.weight", {8});
  add("blk.0.attn_q.weight", {8, 8});
  add("blk.0.attn_k.weight", {8, 4});
  add("blk.0.attn_v.weight", {8, 4});
  add("blk.0.attn_output.weight", {8, 8});
  add("blk.0.ffn_norm.weight", {8});
  add("blk.0.ffn_gate.weight", {8, 8});
  add("blk.0.ffn_up.weight", {8, 8});
  add("blk.0.ffn_down.weight", {8, 8});
  add("output_norm.weight", {8});
  builder.data(std::string(offset, '\1'));
  return builder.bytes();
}

}  // namespace

// A bare GPT-2 as transformers saves it.
void write_tiny_gpt2(const std::string& directory, const std::string& weights) {
  std::vector<std::vector<float>> values;
  std::vector<SafetensorsEntry> entries;
  const ModelConfig config = tiny_gpt2();
  for (const ParameterInfo& parameter : parameter_layout(config).parameters)
    values.emplace_back(static_cast<size_t>(parameter.numel), 0.5f);
  size_t next = 0;
  for (const ParameterInfo& parameter : parameter_layout(config).parameters)
    entries.push_back(
        {parameter.name, "F32", parameter.shape, std::as_bytes(std::span(values[next++]))});
  make_directories(directory);
  write_safetensors(join_path(directory, weights), entries, {{"format", "pt"}});
  FileWriter(join_path(directory, "config.json"), FileWriter::Mode::truncate)
      .write(dump_json(to_huggingface(config, 0, 1, 2)));
}

std::string character_model() {
  return model_of("char", 400);
}

Files json() {
  return {R"({"a": [1, -2.5e3, true, null, "x\u00e9\ud83d\ude00"], "b": {}})", "[[[[1]]]]", "\"\"",
          "18446744073709551615", "-0.0"};
}

Files config() {
  Settings settings;
  settings.set("max_iters", 100, "command line");
  settings.set("data", {"a.jsonl*2.5"}, "configs/tiny.json");
  return {R"({"description": "x", "n_layer": 2, "lr": 1e-3, "data": ["a"], "packing": "best_fit"})",
          R"({"epochs": 2, "use_tensorboard": true, "sample_prompts": ["x", "y"]})",
          to_json(settings).dump()};
}

Files model_config() {
  ModelConfig gpt2;
  gpt2.vocab_size = 100;
  ModelConfig qwen = tiny_llama();
  qwen.qkv_bias = true;
  Files files;
  for (const ModelConfig& config : {gpt2, tiny_llama(), qwen})
    files.push_back(to_huggingface(config, 0, 1, 2).dump());
  return files;
}

Files manifest() {
  checkpoint_files::Manifest manifest;
  manifest.step = 12;
  manifest.files["config.json"] = {100, "0123456789abcdef0123456789abcdef"};
  manifest.files["model.safetensors"] = {1 << 20, "0123456789abcdef0123456789abcdef"};
  return {checkpoint_files::to_json(manifest).dump()};
}

Files safetensors() {
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  const std::vector<float> values(12, 1.5f);
  const auto bytes = std::as_bytes(std::span(values));
  write_safetensors("/a", {{"w", "F32", {3, 4}, bytes}, {"b", "BF16", {2}, bytes.subspan(0, 4)}},
                    {{"format", "pt"}});
  write_safetensors("/b", {});
  return {read_file("/a"), read_file("/b")};
}

Files gguf() {
  GgufBuilder other;
  other.str("general.architecture", "llama")
      .value("flag", 7, std::string(1, '\1'))
      .value("words", 9, strings({"a", ""}))
      .tensor("q", {32, 2}, 8, 0)
      .data(std::string(68, '\2'));
  return {tiny_gguf(false), tiny_gguf(true), other.bytes()};
}

Files sentencepiece() {
  return {model_of("char", 300), model_of("bpe", 320), model_of("unigram", 300),
          with_normalization_map(model_of("char", 300), normalization_map(units_of_one_rule()))};
}

Files json_lines() {
  return {
      "{\"text\": \"one\"}\n{\"text\": \"two\\n\"}\n",
      "{\"instruction\": \"add\", \"input\": \"1 2\", \"output\": \"3\"}\n",
      "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},)"
      R"( {"role": "assistant", "content": "a", "weight": 0.5}]})",
      R"({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]})"};
}

Files gzip() {
  Files files;
  for (const std::string& plain : json_lines()) {
    z_stream stream{};
    deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
    std::string packed(deflateBound(&stream, plain.size()) + 32, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
    stream.avail_in = static_cast<uInt>(plain.size());
    stream.next_out = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_out = static_cast<uInt>(packed.size());
    deflate(&stream, Z_FINISH);
    packed.resize(stream.total_out);
    deflateEnd(&stream);
    files.push_back(packed);
  }
  return files;
}

Files zstd() {
  Files files;
  for (const std::string& plain : json_lines()) {
    std::string packed(ZSTD_compressBound(plain.size()), '\0');
    packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 3));
    files.push_back(packed);
  }
  return files;
}

Files torch() {
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  write_tiny_gpt2("/m", "model.safetensors");
  write_torch(open_model("/m"), "/m.pt", TensorType::f32);
  return {read_file("/m.pt")};
}

Files shard_index() {
  Json map = Json::object();
  for (const ParameterInfo& parameter : parameter_layout(tiny_gpt2()).parameters)
    map[parameter.name] = kShard;
  return {Json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump()};
}

Files llmc() {
  const ModelConfig config = tiny_gpt2();
  std::vector<int32_t> header(256);
  const int32_t first[] = {20240326, 3, static_cast<int32_t>(config.block_size), 4, 1, 2, 8, 4};
  std::copy(std::begin(first), std::end(first), header.begin());
  std::string bytes(reinterpret_cast<const char*>(header.data()), 4 * header.size());
  bytes.append(static_cast<size_t>(4 * parameter_layout(config).count()), '\1');
  return {bytes};
}

Files tokenizer_json() {
  Json vocabulary = Json::object();
  int id = 0;
  for (const char* token : {"a", "b", "c", "\u0120", "ab", "\u0120c", "<|end|>"})
    vocabulary[token] = id++;
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "\\p{L}+|\\s+"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json bytes = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  const Json added = {{"id", 6},         {"content", "<|end|>"}, {"single_word", false},
                      {"lstrip", false}, {"rstrip", false},      {"normalized", false},
                      {"special", true}};
  const Json file = {
      {"version", "1.0"},
      {"added_tokens", Json::array({added})},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}}},
      {"post_processor", nullptr},
      {"decoder", bytes},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocabulary},
        {"merges", Json::array({Json::array({"a", "b"}), Json::array({"\u0120", "c"})})}}}};
  return {file.dump()};
}

Files tokenizer_config() {
  return {
      R"({"bos_token": "<|end|>", "eos_token": {"content": "<|end|>"}, "pad_token": null,
          "bos_token_id": 6, "eos_token_id": [6, 2], "chat_template": "{{ messages[0].content }}"})"};
}

Files json_array() {
  return {R"([{"text": "one"}, {"text": "two"}])",
          "[\n{\"instruction\": \"add\",\n\"output\": \"3\"}\n]\n"};
}

Files text() {
  return {"the cat sat on the mat\r\n\xEF\xBB\xBF été\n", "\xEF\xBB\xBFx"};
}

Files token_bin() {
  std::string narrow, wide;
  for (uint32_t i = 0; i < 200; ++i) {
    const uint32_t id = i * 7 % 30;
    narrow.append(reinterpret_cast<const char*>(&id), 2);
    wide.append(reinterpret_cast<const char*>(&id), 4);
  }
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = 200;
  const std::string llmc(reinterpret_cast<const char*>(header.data()), 4 * header.size());
  return {narrow, wide, llmc + narrow};
}

Files template_file() {
  return {R"({"name": "mine", "begin": [{"token": "bos_token"}],
              "system": {"prefix": "", "suffix": "\n\n", "default": "Answer.", "joins_next": true},
              "user": {"prefix": "Q: ", "suffix": "\n", "input": "\nGiven: ", "first_prefix": "1: "},
              "assistant": {"prefix": "A: ", "suffix": [{"token": "eos_token"}, "\n"]},
              "trim": true})",
          R"({"user": {"prefix": "u", "suffix": ""},
              "assistant": {"prefix": "a", "suffix": [{"token": "eos_token"}]}})"};
}

Files jinja() {
  Files files;
  for (const char* name : {"chatml", "llama3", "alpaca", "nanochat"})
    files.push_back(chat_template(name)->jinja());
  files.push_back(
      "{% set ns = namespace(n=0) %}{% macro show(m, end='') %}{{ m.content | trim }}{{ end }}"
      "{% endmacro %}{% for m in messages if m['role'] != 'x' %}{% if loop.first and m.role is "
      "defined %}{{- bos_token }}{% elif not loop.last %}{{ '[' ~ m.role.upper()[:3] ~ ']' }}"
      "{% else %}{% set ns.n = ns.n + 1 %}{% endif %}{{ show(m, end=eos_token) }}{% endfor %}"
      "{{ raise_exception('no') if ns.n > 9 else '' }}{# note #}");
  files.push_back(
      "{% for m in messages[::-1] %}{% set t = m.content.split('a')[-1] | replace('b', m | tojson) "
      "%}{{ t.strip() ~ (m.items() | list | length) // 2 ~ ('x' in t) }}{% if loop.index0 % 2 %}"
      "{% break %}{% endif %}{{ [1, {'k': m.role | default('r')}] | tojson(indent=2) }}"
      "{{ range(3) | join('-') }}{% endfor %}");
  return files;
}

Files stored_template() {
  return {R"({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})",
          R"({"chat_template": [{"name": "default", "template": "x"}, {"name": "tools"}]})"};
}

Files adapter_config() {
  return {R"({"peft_type": "LORA", "base_model_name_or_path": "/base", "r": 2, "lora_alpha": 4,
              "bias": "none", "use_rslora": false, "target_modules": ["q_proj"],
              "modules_to_save": null, "rank_pattern": {}})"};
}

std::string adapter_weights() {
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  const std::vector<float> values(16, 0.5F);
  const auto bytes = std::as_bytes(std::span(values));
  const std::string module = "base_model.model.model.layers.0.self_attn.q_proj";
  write_safetensors("/a", {{module + ".lora_A.weight", "F32", {2, 8}, bytes},
                           {module + ".lora_B.weight", "F32", {8, 2}, bytes}});
  return read_file("/a");
}

Files cache_manifest() {
  StoredDataset stored;
  stored.columns["tokens"] = {12, {1}};
  stored.columns["offsets"] = {kColumnChunk + 1, {2, 3}};
  return {to_json(stored).dump()};
}

Files cache_part() {
  Files files;
  for (const int token_bytes : {2, 4}) {
    PartWriter part(token_bytes);
    part.add_tokens({1, 2, 3});
    part.add_weights({0, 1, 1});
    part.end_piece({});
    part.add_unknown_vars({{"name", 2}});
    const std::vector<std::byte> bytes = part.finish(7);
    files.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return files;
}

Files metrics() {
  return {"{\"step\": 1, \"loss\": 2.5}\n{\"step\": 3, \"loss\": 2}\n{\"step\": 4}\n",
          "{\"step\": 1}\n{\"st"};
}

Files event_file() {
  VolatileDisk disk;
  const ScopedFileSystem scope(disk);
  EventFile file("/events");
  for (int64_t step = 1; step < 6; ++step) file.scalar("loss", step, 1.5);
  file.text("sample/0", 6, "text");
  return {read_file("/events")};
}

// run.json, config.json, samples.jsonl and metrics.jsonl, a byte of zero between them.
Files run_files() {
  const std::string card =
      R"({"version": "0.1", "process": {"pid": 1, "host": "h"}, "ended": {"reason": "done"},
          "model": {"parameters": 12}, "data": {"train_tokens": 9, "examples": ["<b>"]}})";
  const std::string samples = R"({"step": 2, "prompt": "<script>", "sample": "\u001b[2J&"})";
  const std::string metrics =
      R"({"step": 1, "loss": 2.5, "lr": 1e-3, "grad_norm": 1, "step_ms": 5, "tokens": 32})"
      "\n"
      R"({"step": 2, "loss": 2.25, "val_loss": 2.5, "best_val_loss": 2.5, "tokens": 64})"
      "\n";
  const std::string zero(1, '\0');
  return {card + zero + R"({"max_iters": 2, "data": ["a"]})" + zero + samples + zero + metrics,
          "{}" + zero + "{}" + zero + zero + metrics};
}

}  // namespace train_sft::seeds

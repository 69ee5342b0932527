#include "fuzz/targets.h"

#include "data/parts.h"
#include "data/stored_dataset.h"
#include "fuzz/seeds.h"
#include "support/volatile_disk.h"
#include "train/checkpoint_files.h"
#include "train/step_lines.h"
#include "train/tensorboard.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/config/options.h"
#include "train_sft/config/parameter_layout.h"
#include "train_sft/data/loader.h"
#include "train_sft/interop/adapter.h"
#include "train_sft/interop/gguf.h"
#include "train_sft/interop/model_source.h"
#include "train_sft/interop/safetensors.h"
#include "train_sft/report/page.h"
#include "train_sft/report/record.h"
#include "train_sft/report/run_files.h"
#include "train_sft/report/terminal.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

// A machine that holds the input as its one file, and no other.
class OneFile {
 public:
  OneFile(const std::string& path, std::string_view bytes) : scope_(disk_) {
    make_directories(parent_path(path));
    add(path, bytes);
  }
  // What belongs beside it.
  static void add(const std::string& path, std::string_view bytes) {
    FileWriter(path, FileWriter::Mode::truncate).write(bytes);
  }

 private:
  VolatileDisk disk_;
  ScopedFileSystem scope_;
};

// Models that a machine of a test's size can hold.
constexpr int64_t kMostParameters = 1'000'000;

// So that the sanitizers see every byte a reader hands out.
void touch(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<unsigned>(byte);
  TRAIN_SFT_CHECK(sum <= 255 * bytes.size(), "a sum of bytes");
}

void read_json(std::string_view bytes) {
  const Json value = parse_json(bytes, "input");
  const Json again = parse_json(dump_json(value), "written");
  TRAIN_SFT_CHECK(value == again, "what was written reads differently");
}

void read_config(std::string_view bytes) {
  Settings settings;
  apply_json(settings, parse_json(bytes, "input"), "input");
  validate(settings);
  Settings again;
  apply_json(again, to_json(settings), "written");
  Json first = to_json(settings), second = to_json(again);
  first.erase("_source");
  second.erase("_source");
  TRAIN_SFT_CHECK(first == second, "what was written reads differently: {}",
                  Json::diff(first, second).dump());
}

void read_model_config(std::string_view bytes) {
  const ModelConfig config = from_huggingface(parse_json(bytes, "input"), "input");
  validate(config);
  const Json written = to_huggingface(config, 0, 1, 2);
  TRAIN_SFT_CHECK(from_huggingface(written, "written") == config, "read differently: {}",
                  written.dump());
}

void read_manifest_file(std::string_view bytes) {
  const OneFile file("/run/manifest.json", bytes);
  for (const auto& [name, record] : checkpoint_files::read_manifest("/run").files)
    TRAIN_SFT_CHECK(parent_path(join_path("/run", name)) == "/run", "'{}' leads elsewhere", name);
}

void read_safetensors(std::string_view bytes) {
  const OneFile file("/in/model.safetensors", bytes);
  const SafetensorsFile model("/in/model.safetensors");
  for (const SafetensorsEntry& entry : model.entries()) touch(entry.bytes);
}

void read_parameters(const ModelSource& model) {
  if (parameter_layout(model.config).total > kMostParameters) return;
  for (const ParameterInfo& parameter : parameter_layout(model.config).parameters) {
    std::vector<float> values(static_cast<size_t>(parameter.numel));
    read_parameter(model, parameter.name, values);
  }
}

void read_gguf(std::string_view bytes) {
  const OneFile file("/in/model.gguf", bytes);
  {
    const GgufFile gguf("/in/model.gguf");
    for (const GgufTensor& tensor : gguf.tensors()) touch(tensor.bytes);
  }
  read_parameters(open_model("/in/model.gguf"));
}

const Tokenizer& letters() {
  static const auto tokenizer = tokenizer_from_model(seeds::character_model(), "letters");
  return *tokenizer;
}

void use(const Tokenizer& tokenizer) {
  const int32_t ids = std::min(tokenizer.vocab_size(), 300);
  for (int32_t id = 0; id < ids; ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    touch(std::as_bytes(std::span(bytes)));
  }
  for (const std::string_view text :
       {"", " ", "Hello,  wörld\n\n 123 <s>", "\xE2\x96\x81 a\xCC\x81"}) {
    const std::vector<int32_t> encoded = tokenizer.encode(text);
    for (const int32_t id : encoded)
      TRAIN_SFT_CHECK(id >= 0 && id < tokenizer.vocab_size(), "id {} of {}", id,
                      tokenizer.vocab_size());
    tokenizer.decode(encoded);
  }
  tokenizer.fingerprint();
}

void read_torch(std::string_view bytes) {
  const OneFile file("/in/model.pt", bytes);
  OpenOptions options;
  options.n_head = 2;
  read_parameters(open_model("/in/model.pt", options));
}

void read_shard_index(std::string_view bytes) {
  const OneFile file("/in/model.safetensors.index.json", bytes);
  seeds::write_tiny_gpt2("/in", seeds::kShard);
  const ModelSource model = open_model("/in");
  TRAIN_SFT_CHECK(model.files.size() <= 1, "read a file that is not there");
  read_parameters(model);
}

void read_llmc(std::string_view bytes) {
  const OneFile file("/in/model.bin", bytes);
  read_parameters(open_model("/in/model.bin"));
}

void read_tokenizer_json(std::string_view bytes) {
  const OneFile file("/in/tokenizer.json", bytes);
  use(*load_tokenizer("/in/tokenizer.json"));
}

// Beside a tokenizer.json, all the files that say more of it.
void read_tokenizer_config(std::string_view bytes) {
  static const std::string tokenizer = seeds::tokenizer_json()[0];
  const OneFile file("/in/tokenizer_config.json", bytes);
  OneFile::add("/in/generation_config.json", bytes);
  OneFile::add("/in/tokenizer.json", tokenizer);
  use(*load_tokenizer("/in"));
}

void read_sentencepiece(std::string_view bytes) {
  use(*tokenizer_from_model(std::string(bytes), "input"));
}

void read_data(const std::string& name, std::string_view bytes) {
  const OneFile file("/in/" + name, bytes);
  TrainConfig config;
  config.data = {"/in/" + name};
  config.cache_dir = "none";
  config.threads = 1;
  config.block_size = 32;
  const auto chatml = chat_template("chatml");
  const DataSplit split = load_data(config, letters(), *chatml);
  TRAIN_SFT_CHECK(split.train.tokens.size() == split.train.offsets.back(), "offsets");
  const RowTable rows(split.train, resolve_packing(config, split.train.is_text), config.block_size);
  if (rows.size() == 0) return;
  make_batch(rows, RowOrder(rows.size(), 1, true, 1), 0, 0, 1, 0, 1);
}

void use(const ChatTemplate& format) {
  const std::vector<Message> messages = {{Role::system, "s", 1, ""}, {Role::user, " u ", 1, "i"}};
  if (!format.fits(letters())) return;
  format.prompt(letters(), messages);
  Conversation conversation{messages};
  conversation.messages.push_back({Role::assistant, "a", 1, ""});
  const RenderedConversation rendered = format.render(letters(), conversation, TrainOn::assistant);
  TRAIN_SFT_CHECK(rendered.ids.size() == rendered.weights.size(), "a weight for each token");
}

void read_template_file(std::string_view bytes) {
  const OneFile file("/in/template.json", bytes);
  use(*chat_template("/in/template.json"));
}

void read_jinja(std::string_view bytes) {
  use(*recognise_chat_template(std::string(bytes)));
}

void read_stored_template(std::string_view bytes) {
  const OneFile file("/in/tokenizer_config.json", bytes);
  stored_chat_template("/in");
}

void read_adapter_config(std::string_view bytes) {
  static const std::string weights = seeds::adapter_weights();
  const OneFile file("/in/adapter_config.json", bytes);
  OneFile::add("/in/adapter_model.safetensors", weights);
  make_directories("/base");
  for (const auto& [name, pair] : read_adapter("/in").modules) touch(pair.a.bytes);
}

// Whoever opens a cache takes Json's own errors for a damaged manifest, too.
void read_cache_manifest(std::string_view bytes) try {
  const StoredDataset stored = stored_dataset_from_json(parse_json(bytes, "input"), "input");
  TRAIN_SFT_CHECK(to_json(stored_dataset_from_json(to_json(stored), "written")) == to_json(stored),
                  "read differently");
} catch (const Json::exception&) {
}

// A checksum stands in front of a part: what it covers is fuzzed without it.
void read_cache_part(std::string_view bytes) {
  const auto aligned = std::make_shared<std::vector<uint64_t>>((bytes.size() + 7) / 8);
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(aligned->data()));
  const Part part(aligned, std::as_bytes(std::span(*aligned)).subspan(0, bytes.size()), "input",
                  false);
  touch(std::as_bytes(part.pieces()));
  part.unknown_vars();
}

// The records of a run that is resumed at step 3.
void read_metrics(std::string_view bytes) {
  const OneFile file("/run/metrics.jsonl", bytes);
  read_records("/run/metrics.jsonl");
  cut_step_lines("/run/metrics.jsonl", 3);
  const std::string left = read_file("/run/metrics.jsonl");
  TRAIN_SFT_CHECK(bytes.starts_with(left), "cut, nothing else");
  cut_step_lines("/run/metrics.jsonl", 3);
  TRAIN_SFT_CHECK(read_file("/run/metrics.jsonl") == left, "cut twice");
}

void read_event_file(std::string_view bytes) {
  const OneFile file("/run/events", bytes);
  cut_event_file("/run/events", 3);
  const std::string left = read_file("/run/events");
  TRAIN_SFT_CHECK(bytes.starts_with(left), "cut, nothing else");
  cut_event_file("/run/events", 3);
  TRAIN_SFT_CHECK(read_file("/run/events") == left, "cut twice");
}

size_t occurrences(const std::string& text, const char* part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// What report and watch make of a run: no text of it becomes markup or commands a terminal.
void read_run_files(std::string_view bytes) {
  const OneFile metrics("/run/metrics.jsonl", "");
  static const size_t scripts =
      occurrences(html_page(std::vector<RunFiles>{read_run("/run")}), "<script");
  for (const char* name : {"run.json", "config.json", "samples.jsonl", "metrics.jsonl"}) {
    const std::string_view part = bytes.substr(0, bytes.find('\0'));
    OneFile::add(join_path("/run", name), part);
    bytes.remove_prefix(std::min(bytes.size(), part.size() + 1));
  }
  const RunFiles run = read_run("/run");
  const std::string page = html_page(std::vector<RunFiles>{run});
  TRAIN_SFT_CHECK(occurrences(page, "<script") == scripts, "a script of the run's own");
  markdown_card(run);
  dump_json(watch_json(run));
  for (const std::string& line : terminal_view(run, {}))
    for (const char c : line)
      TRAIN_SFT_CHECK(static_cast<unsigned char>(c) >= 0x20, "a control character");
}

}  // namespace

const std::vector<FuzzTarget>& fuzz_targets() {
  static const std::vector<FuzzTarget> targets = {
      {"json", read_json, seeds::json},
      {"config", read_config, seeds::config},
      {"model_config", read_model_config, seeds::model_config},
      {"manifest", read_manifest_file, seeds::manifest},
      {"safetensors", read_safetensors, seeds::safetensors},
      {"gguf", read_gguf, seeds::gguf},
      {"sentencepiece", read_sentencepiece, seeds::sentencepiece},
      {"jsonl", [](std::string_view bytes) { read_data("data.jsonl", bytes); }, seeds::json_lines},
      {"gzip", [](std::string_view bytes) { read_data("data.jsonl.gz", bytes); }, seeds::gzip},
      {"zstd", [](std::string_view bytes) { read_data("data.jsonl.zst", bytes); }, seeds::zstd},
      {"torch", read_torch, seeds::torch},
      {"llmc", read_llmc, seeds::llmc},
      {"tokenizer_json", read_tokenizer_json, seeds::tokenizer_json},
      {"json_array", [](std::string_view bytes) { read_data("data.json", bytes); },
       seeds::json_array},
      {"text", [](std::string_view bytes) { read_data("data.txt", bytes); }, seeds::text},
      {"token_bin", [](std::string_view bytes) { read_data("data.bin", bytes); }, seeds::token_bin},
      {"template_file", read_template_file, seeds::template_file},
      {"jinja", read_jinja, seeds::jinja},
      {"stored_template", read_stored_template, seeds::stored_template},
      {"adapter_config", read_adapter_config, seeds::adapter_config},
      {"cache_manifest", read_cache_manifest, seeds::cache_manifest},
      {"cache_part", read_cache_part, seeds::cache_part},
      {"metrics", read_metrics, seeds::metrics},
      {"event_file", read_event_file, seeds::event_file},
      {"shard_index", read_shard_index, seeds::shard_index},
      {"tokenizer_config", read_tokenizer_config, seeds::tokenizer_config},
      {"run_files", read_run_files, seeds::run_files},
  };
  return targets;
}

void read_any_bytes(const FuzzTarget& target, std::string_view bytes) {
  log::set_level(log::Level::error);
  try {
    target.read(bytes);
  } catch (const Error& error) {
    if (error.code() == ExitCode::bug) throw;
  }
}

}  // namespace train_sft

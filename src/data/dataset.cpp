#include "train_sft/data/dataset.h"

#include <algorithm>
#include <utility>

#include "build.h"
#include "split.h"
#include "text_stream.h"
#include "token_bin.h"
#include "token_cache.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"
#include "train_sft/data/loader.h"

namespace train_sft {
namespace {

// From here on a build that is killed leaves parts to go on from; below, it costs seconds.
constexpr uint64_t kKeepPartsFrom = uint64_t{4} << 20;

// What the columns of both sides may take at most, from the tokens of the first text.
uint64_t estimated_bytes(const std::vector<DataSource>& sources, const Renderer& renderer) {
  uint64_t total = 0;
  for (const DataSource& source : sources) {
    total += static_cast<uint64_t>(static_cast<double>(source.file.bytes) *
                                   std::max(1.0, source.source.weight));
  }
  std::string text;
  TextStream stream(sources.front().source.path, false);
  stream.read(text);
  const size_t tokens = renderer.tokenizer.encode(text).size();
  const double tokens_per_byte = static_cast<double>(std::max<size_t>(tokens, 1)) /
                                 static_cast<double>(std::max<uint64_t>(stream.consumed(), 1));
  constexpr double kMargin = 1.2;  // offsets, weights and hashes; text that is unlike the first
  return static_cast<uint64_t>(kMargin * tokens_per_byte * renderer.token_bytes *
                               static_cast<double>(total));
}

uint64_t overlap_of(const DataSplit& split) {
  const auto each = [](const Column<uint64_t>& hashes) {
    return [&hashes](const HashVisitor& visit) {
      for (const uint64_t hash : hashes) visit(hash);
    };
  };
  const auto& train = split.train.content_hashes;
  const auto& validation = split.validation.content_hashes;
  if (validation.empty()) return 0;
  return count_common(train.size() + validation.size(), each(validation), each(train));
}

// What was read must be what was looked at before: half of one state and half of another is none.
void require_unchanged(const std::vector<DataSource>& sources) {
  for (const DataSource& source : sources) {
    const FileStatus now = file_status(source.file.path);
    if (now.bytes == source.file.bytes && now.modified_ns == source.file.modified_ns) continue;
    throw DataError("{}: changed while it was read; start again when it is complete",
                    source.file.path);
  }
}

DataSplit build_in_memory(std::vector<DataSource>& sources, const Renderer& renderer) {
  uint64_t bytes = 0;
  for (const DataSource& source : sources) bytes += source.file.bytes;
  const uint64_t available = available_memory_bytes();
  if (bytes > kKeepPartsFrom && 2 * estimated_bytes(sources, renderer) > available) {
    throw ResourceError(
        "the tokens of {} of data do not fit into memory ({} are free); keep them in files by "
        "--cache_dir DIR",
        human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(available)));
  }
  PartStore parts("");
  tokenise(sources, renderer, parts);
  require_unchanged(sources);
  Assembly assembly(sources, renderer.config, parts, renderer.token_bytes, "");
  const Built built = assembly.run();
  const int64_t vocab_size = renderer.tokenizer.vocab_size();
  DataSplit split;
  split.train = assembly.open_train(vocab_size);
  split.validation = assembly.open_validation(vocab_size);
  split.overlap = overlap_of(split);
  split.unknown_vars = built.unknown_vars;
  return split;
}

// A stop in the midst says that nothing is lost.
template <typename Work>
void stoppable(bool keeps_parts, Work work) {
  try {
    work();
  } catch (const Error& error) {
    if (!keeps_parts || !signals::stop_requested()) throw;
    throw Error(error.code(),
                fmt::format("{}; what is tokenised is kept: the same command goes on from there",
                            error.what()));
  }
}

DataSplit build_cache(TokenCache& cache, std::vector<DataSource>& sources,
                      const Renderer& renderer) {
  uint64_t bytes = 0;
  for (const DataSource& source : sources) bytes += source.file.bytes;
  const bool keep_parts = bytes >= kKeepPartsFrom;
  cache.require_room(estimated_bytes(sources, renderer) * (keep_parts ? 2 : 1));
  const std::string directory = cache.begin_building(keep_parts);
  PartStore parts(keep_parts ? cache.parts_directory() : "");
  stoppable(keep_parts, [&] { tokenise(sources, renderer, parts); });
  require_unchanged(sources);
  Assembly assembly(sources, renderer.config, parts, renderer.token_bytes, directory);
  Built built;
  stoppable(keep_parts, [&] { built = assembly.run(); });
  const int64_t vocab_size = renderer.tokenizer.vocab_size();
  DataSplit split;
  split.train = open_files(built.train, directory, "train", vocab_size);
  split.validation = open_files(built.validation, directory, "validation", vocab_size);
  cache.commit(sources, built, overlap_of(split));
  auto committed = cache.open(sources, false, vocab_size);
  TRAIN_SFT_CHECK(committed.has_value(), "the token cache just written cannot be read");
  return std::move(*committed);
}

DataSplit cached_or_built(std::vector<DataSource>& sources, const Renderer& renderer) {
  const auto cache = TokenCache::at(renderer.config, cache_settings(sources, renderer));
  if (!cache) return build_in_memory(sources, renderer);
  const bool verify = renderer.config.verify_data;
  const int64_t vocab_size = renderer.tokenizer.vocab_size();
  if (auto split = cache->open(sources, verify, vocab_size)) return std::move(*split);
  cache->lock();
  // Another process may have built it meanwhile.
  if (auto split = cache->open(sources, verify, vocab_size)) return std::move(*split);
  return build_cache(*cache, sources, renderer);
}

// Collects the texts that rendering encodes, so that a tokenizer learns from what it will see.
class TextCollector : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    texts.emplace_back(text);
    return {0};
  }
  std::string decode(std::span<const int32_t>) const override { return {}; }
  std::string token_bytes(int32_t) const override { return {}; }
  bool splits_at_newlines() const override { return true; }
  int32_t vocab_size() const override { return 1; }
  std::optional<int32_t> special_id(std::string_view) const override { return 0; }
  int32_t bos_id() const override { return 0; }
  int32_t eos_id() const override { return 0; }
  int32_t pad_id() const override { return 0; }
  std::string kind() const override { return "text collector"; }
  std::string fingerprint() const override { return {}; }
  void save(const std::string&, const std::string&) const override {
    throw InternalError("a text collector cannot be saved");
  }

  mutable std::vector<std::string> texts;
};

}  // namespace

DataSplit load_data(const TrainConfig& config, const Tokenizer& tokenizer,
                    const ChatTemplate& chat_template) {
  if (config.data.empty()) {
    throw UsageError("no data given: add --data FILE, or \"data\": [\"FILE\"] to train_sft.json");
  }
  if (config.block_size < 2)
    throw UsageError("block_size {} is too small: 2 or more", config.block_size);
  if (are_token_files(config)) return load_token_files(config, tokenizer);
  const Renderer renderer(config, tokenizer, chat_template);
  std::vector<DataSource> sources = find_sources(config);
  plan_split(sources, config);
  DataSplit split = cached_or_built(sources, renderer);
  for (const DataSource& source : sources) split.files.push_back(source.file);
  warn_of_placeholders(split.unknown_vars);
  if (split.train.report.learned_tokens == 0) {
    throw UsageError(
        "nothing is to be learned from this data:\n{}Check train_on ({}), loss weights "
        "in the data, block_size ({}) and val_split ({:g}).",
        describe(split.train.report), config.train_on, config.block_size, config.val_split);
  }
  return split;
}

std::vector<std::string> load_documents(const TrainConfig& config) {
  if (are_token_files(config)) {
    throw UsageError(
        "tokenizer: {} holds token ids; name the tokenizer they were made with by --tokenizer PATH",
        config.data.front());
  }
  TrainConfig training = config;
  training.val_data.clear();
  std::vector<DataSource> sources = find_sources(training);
  const auto chat = chat_template(config.chat_template);
  const ReadSettings settings(config);
  TextCollector collector;
  const auto add = [&](const DataRecord& record) {
    if (record.is_document) {
      collector.texts.push_back(record.document);
    } else {
      chat->render(collector, record.conversation, TrainOn::all);
    }
  };
  // Of a corpus that is larger, chunks spread evenly over it.
  constexpr uint64_t kMostText = uint64_t{1} << 30;
  uint64_t bytes = 0;
  for (const DataSource& source : sources) bytes += source.file.bytes;
  const uint64_t stride = bytes / kMostText + 1;
  ChunkReader reader(sources, training, stride > 1 ? &collector : nullptr);
  while (std::optional<Chunk> chunk = reader.next()) {
    if (chunk->number % stride != 0) continue;
    Placeholders unknown;
    const DataSource& source = sources[chunk->source];
    if (source.kind == SourceKind::plain) {
      collector.texts.push_back(std::move(chunk->text));
    } else if (chunk->records) {
      for (size_t i = chunk->begin; i < chunk->end; ++i) add(chunk->records->records[i]);
    } else {
      for (const JsonRecord& text : json_lines(chunk->text, chunk->first_line)) {
        add(make_record(text, source.source, settings, unknown));
      }
    }
  }
  return std::move(collector.texts);
}

}  // namespace train_sft

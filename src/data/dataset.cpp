#include "train_sft/data/dataset.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_set>
#include <utility>

#include "assemble.h"
#include "parallel.h"
#include "records.h"
#include "split.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/data/loader.h"
#include "train_sft/text/utf8.h"

namespace train_sft {
namespace {

struct Renderer {
  const TrainConfig& config;
  const Tokenizer& tokenizer;
  const ChatTemplate& chat_template;
  TrainOn train_on;

  RenderedRecord render(const Record& record) const {
    if (!record.is_document) {
      RenderedConversation rendered =
          chat_template.render(tokenizer, record.conversation, train_on);
      return {std::move(rendered.ids), std::move(rendered.weights)};
    }
    RenderedRecord rendered{tokenizer.encode(record.document), {}};
    if (record.ends && tokenizer.eos_id() >= 0) rendered.ids.push_back(tokenizer.eos_id());
    return rendered;
  }
};

TrainOn parse_train_on(const std::string& name) {
  if (name == "assistant") return TrainOn::assistant;
  if (name == "last") return TrainOn::last;
  if (name == "all") return TrainOn::all;
  throw UsageError("train_on '{}' is unknown; choose assistant, last or all", name);
}

std::vector<Source> read_sources(const std::vector<std::string>& specs, const TrainConfig& config,
                                 uint64_t first_id) {
  const DataVars vars = parse_data_vars(config.data_vars);
  std::vector<std::string> unknown;
  std::vector<Source> sources;
  for (const std::string& spec : specs) {
    Source source = parse_source(spec);
    read_source(source, config, vars, first_id, unknown);
    first_id += source.records.size();
    sources.push_back(std::move(source));
  }
  warn_of_placeholders(unknown);
  return sources;
}

bool is_plain_text(const std::vector<Source>& sources) {
  return std::all_of(sources.begin(), sources.end(), [](const Source& s) { return s.plain_text; });
}

bool is_all_text(const std::vector<Source>& sources) {
  return std::all_of(sources.begin(), sources.end(),
                     [](const Source& s) { return !is_conversation_format(s.format); });
}

std::string format_name(const std::vector<Source>& sources) {
  std::set<std::string> names;
  for (const Source& source : sources) names.insert(source.format);
  return names.size() == 1 ? *names.begin() : "mixed";
}

// Cuts a document's last characters off: what a reader of the whole file sees as its end.
void split_document(Record& record, double fraction, std::vector<Record>& validation) {
  const size_t characters = count_characters(record.document);
  const auto kept = static_cast<size_t>((1.0 - fraction) * static_cast<double>(characters));
  const size_t offset = character_offset(record.document, kept);
  if (offset == record.document.size()) return;
  Record tail;
  tail.is_document = true;
  tail.document = record.document.substr(offset);
  tail.line =
      record.line + static_cast<size_t>(std::count(
                        record.document.begin(),
                        record.document.begin() + static_cast<std::ptrdiff_t>(offset), '\n'));
  tail.id = record.id;
  tail.content_hash = content_hash(tail);
  validation.push_back(std::move(tail));
  record.document.resize(offset);
  record.ends = false;
  record.content_hash = content_hash(record);
}

std::vector<bool> tail_of_records(size_t n, double fraction) {
  std::vector<bool> validation(n);
  const uint64_t count = std::min<uint64_t>(validation_count(n, fraction), n);
  std::fill(validation.end() - static_cast<std::ptrdiff_t>(count), validation.end(), true);
  return validation;
}

// Moves the validation part of the sources' records into sources of its own.
std::vector<Source> take_validation(std::vector<Source>& sources, const TrainConfig& config) {
  std::vector<Source> validation;
  if (config.val_split <= 0.0) return validation;
  std::string by = config.val_split_by;
  if (by == "auto") by = is_plain_text(sources) ? "tail" : "hash";
  if (by != "tail" && by != "hash") {
    throw UsageError("val_split_by '{}' is unknown; choose auto, hash or tail", by);
  }
  std::vector<uint64_t> hashes;
  for (const Source& source : sources) {
    for (const Record& record : source.records) hashes.push_back(record.content_hash);
  }
  const std::vector<bool> chosen = by == "hash" ? split_by_hash(hashes, config.val_split)
                                                : tail_of_records(hashes.size(), config.val_split);
  size_t i = 0;
  for (Source& source : sources) {
    Source taken{source.path, 1.0, source.format, source.plain_text, {}};
    if (by == "tail" && source.plain_text) {
      for (Record& record : source.records) split_document(record, config.val_split, taken.records);
      i += source.records.size();
    } else {
      std::vector<Record> kept;
      for (Record& record : source.records) {
        (chosen[i++] ? taken.records : kept).push_back(std::move(record));
      }
      source.records = std::move(kept);
    }
    if (!taken.records.empty()) validation.push_back(std::move(taken));
  }
  return validation;
}

// A long text is encoded in parts, by several threads, where the tokenizer allows it.
std::vector<std::string_view> encoding_parts(std::string_view text, const Tokenizer& tokenizer) {
  constexpr size_t kPartBytes = size_t{1} << 18;
  std::vector<std::string_view> parts;
  while (text.size() > kPartBytes) {
    size_t cut = 0;
    for (size_t limit = kPartBytes; cut == 0 && limit < text.size(); limit *= 2) {
      cut = tokenizer.safe_cut(text, limit);
    }
    if (cut == 0) break;
    parts.push_back(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  parts.push_back(text);
  return parts;
}

std::vector<RenderedRecord> render_all(const Source& source, const Renderer& renderer) {
  std::vector<RenderedRecord> rendered(source.records.size());
  const int threads = resolve_threads(renderer.config.threads);
  if (source.plain_text) {
    for (size_t i = 0; i < rendered.size(); ++i) {
      const auto parts = encoding_parts(source.records[i].document, renderer.tokenizer);
      std::vector<std::vector<int32_t>> ids(parts.size());
      parallel_for(
          parts.size(), threads, "tokenising", [&](size_t p) { return parts[p].size(); },
          [&](size_t p) { ids[p] = renderer.tokenizer.encode(parts[p]); });
      for (const auto& part : ids) {
        rendered[i].ids.insert(rendered[i].ids.end(), part.begin(), part.end());
      }
      const int32_t eos = renderer.tokenizer.eos_id();
      if (source.records[i].ends && eos >= 0) rendered[i].ids.push_back(eos);
    }
    return rendered;
  }
  const auto cost = [&](size_t i) {
    size_t bytes = source.records[i].document.size();
    for (const Message& message : source.records[i].conversation.messages) {
      bytes += message.content.size() + message.input.size();
    }
    return bytes;
  };
  parallel_for(rendered.size(), threads, "tokenising", cost,
               [&](size_t i) { rendered[i] = renderer.render(source.records[i]); });
  return rendered;
}

void add_source(DatasetBuilder& builder, const Source& source, const Renderer& renderer) {
  const std::vector<RenderedRecord> rendered = render_all(source, renderer);
  std::vector<uint64_t> hashes;
  for (const Record& record : source.records) hashes.push_back(record.content_hash);
  const auto whole = static_cast<uint64_t>(source.weight);
  const std::vector<bool> extra =
      select_fraction(hashes, source.weight - static_cast<double>(whole));
  for (uint64_t copy = 0; copy <= whole; ++copy) {
    uint64_t left_out = 0;
    for (size_t i = 0; i < rendered.size(); ++i) {
      if (copy == whole && !extra[i]) {
        left_out += copy == 0 ? 1 : 0;
        continue;
      }
      const Record& record = source.records[i];
      builder.add(rendered[i], record.id + copy * kCopyStride, record.content_hash,
                  fmt::format("{}:{}", source.path, record.line));
    }
    builder.drop(fmt::format("left out by the data weight {:g}", source.weight), left_out);
  }
}

Dataset build(const std::vector<Source>& sources, const Renderer& renderer, bool is_stream) {
  DatasetBuilder builder(is_stream, renderer.config.block_size,
                         parse_overlong(renderer.config.overlong));
  DataReport& report = builder.report();
  if (!sources.empty()) report.format = format_name(sources);
  std::unordered_set<uint64_t> seen;
  for (const Source& source : sources) {
    report.examples += source.records.size();
    for (const Record& record : source.records) {
      report.duplicates += seen.insert(record.content_hash).second ? 0 : 1;
    }
    add_source(builder, source, renderer);
  }
  return builder.finish();
}

uint64_t count_overlap(const Dataset& train, const Dataset& validation) {
  const std::unordered_set<uint64_t> contents(train.content_hashes.begin(),
                                              train.content_hashes.end());
  return static_cast<uint64_t>(
      std::count_if(validation.content_hashes.begin(), validation.content_hashes.end(),
                    [&](uint64_t hash) { return contents.contains(hash); }));
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

std::string Dataset::fingerprint() const {
  Checksum sum;
  sum.add(std::as_bytes(std::span(tokens)));
  sum.add(std::as_bytes(std::span(offsets)));
  sum.add(std::as_bytes(std::span(weights)));
  return sum.hex();
}

DataSplit load_data(const TrainConfig& config, const Tokenizer& tokenizer,
                    const ChatTemplate& chat_template) {
  if (config.data.empty()) {
    throw UsageError("no data given: add --data FILE, or \"data\": [\"FILE\"] to train_sft.json");
  }
  if (config.block_size < 2)
    throw UsageError("block_size {} is too small: 2 or more", config.block_size);
  const Renderer renderer{config, tokenizer, chat_template, parse_train_on(config.train_on)};
  std::vector<Source> sources = read_sources(config.data, config, 0);
  uint64_t records = 0;
  for (const Source& source : sources) records += source.records.size();
  std::vector<Source> held_out = config.val_data.empty()
                                     ? take_validation(sources, config)
                                     : read_sources(config.val_data, config, records);
  for (Source& source : held_out) source.weight = 1.0;

  const auto is_stream = [&](const std::vector<Source>& some) {
    const bool text = is_all_text(some);
    return text && resolve_packing(config, text) == Packing::sequential;
  };
  DataSplit split;
  split.train = build(sources, renderer, is_stream(sources));
  split.validation = build(held_out, renderer, is_stream(held_out));
  split.overlap = count_overlap(split.train, split.validation);
  if (split.train.report.learned_tokens == 0) {
    throw UsageError(
        "nothing is to be learned from this data:\n{}Check train_on ({}), loss weights "
        "in the data, block_size ({}) and val_split ({:g}).",
        describe(split.train.report), config.train_on, config.block_size, config.val_split);
  }
  return split;
}

std::vector<std::string> load_documents(const TrainConfig& config) {
  std::vector<Source> sources = read_sources(config.data, config, 0);
  const auto chat = chat_template(config.chat_template);
  TextCollector collector;
  for (Source& source : sources) {
    for (Record& record : source.records) {
      if (record.is_document) {
        collector.texts.push_back(std::move(record.document));
      } else {
        chat->render(collector, record.conversation, TrainOn::all);
      }
    }
  }
  return std::move(collector.texts);
}

}  // namespace train_sft

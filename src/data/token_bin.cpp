#include "token_bin.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "chunks.h"
#include "parallel.h"
#include "records.h"
#include "text_file.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/data/loader.h"

namespace train_sft {
namespace {

constexpr int32_t kGpt2Magic = 20240520;
constexpr int32_t kLlama3Magic = 20240801;
constexpr int32_t kEvaluationMagic = 20240522;  // HellaSwag and the like, with their answers
constexpr int32_t kModelMagic = 20240326;
constexpr int32_t kGpt2EndOfText = 50256;
constexpr int32_t kLlama3BeginOfText = 128000;
constexpr size_t kHeaderBytes = 256 * sizeof(int32_t);
constexpr uint64_t kCheckedPlaces = 64;
constexpr uint64_t kCheckedAtOnce = 4096;

struct TokenFile {
  std::string path;
  std::string kind;
  std::shared_ptr<const MappedFile> bytes;
  const std::byte* data = nullptr;  // the first id
  uint64_t count = 0;
  int width = 2;
  int32_t mark = -1;
  bool mark_begins_document = false;
};

uint64_t whole_copies(const Source& source) {
  const double copies = std::floor(source.weight);
  if (copies == source.weight && copies >= 1) return static_cast<uint64_t>(copies);
  throw UsageError("data '{}*{:g}': a file of token ids can be repeated whole: *2, *3 …",
                   source.path, source.weight);
}

void read_llm_c_header(TokenFile& file, const std::array<int32_t, 3>& header) {
  const bool gpt2 = header[0] == kGpt2Magic;
  const int32_t version = gpt2 ? 1 : 7;
  if (header[1] != version) {
    throw DataError(
        "{}: an llm.c token file of version {}, expected {}: make it again with llm.c's "
        "present scripts",
        file.path, header[1], version);
  }
  file.kind = gpt2 ? "llm.c, GPT-2" : "llm.c, Llama-3";
  file.width = gpt2 ? 2 : 4;
  file.mark = gpt2 ? kGpt2EndOfText : kLlama3BeginOfText;
  file.mark_begins_document = true;
  const uint64_t bytes = file.bytes->bytes().size();
  const auto announced = static_cast<uint64_t>(static_cast<uint32_t>(header[2]));
  if (bytes < kHeaderBytes ||
      announced != (bytes - kHeaderBytes) / static_cast<uint64_t>(file.width) ||
      (bytes - kHeaderBytes) % static_cast<uint64_t>(file.width) != 0) {
    throw DataError("{}: its header announces {} ids, {} bytes follow it; is the file cut short?",
                    file.path, announced, bytes < kHeaderBytes ? 0 : bytes - kHeaderBytes);
  }
  file.data = file.bytes->bytes().data() + kHeaderBytes;
  file.count = announced;
}

// nanoGPT writes uint16; the first llm.c wrote int32, as do people with large vocabularies: then
// every second half is 0. Text has no such ids in uint16.
int headerless_width(std::span<const std::byte> bytes, int64_t vocab_size) {
  if (vocab_size > 65536) return 4;
  constexpr size_t kLooked = 4096;
  const size_t ids = std::min(kLooked, bytes.size() / sizeof(uint32_t));
  if (ids < 2 || bytes.size() % sizeof(uint32_t) != 0) return 2;
  bool any = false;
  for (size_t i = 0; i < ids; ++i) {
    std::array<uint16_t, 2> halves{};
    std::memcpy(halves.data(), bytes.data() + i * sizeof(uint32_t), sizeof halves);
    if (halves[1] != 0) return 2;
    any = any || halves[0] != 0;
  }
  return any ? 4 : 2;
}

TokenFile open_token_file(const std::string& path, const Tokenizer& tokenizer) {
  require_data_file(path);
  TokenFile file;
  file.path = path;
  file.bytes = std::make_shared<const MappedFile>(path);
  const auto bytes = file.bytes->bytes();
  std::array<int32_t, 3> header{};
  if (bytes.size() >= sizeof header) std::memcpy(header.data(), bytes.data(), sizeof header);
  if (header[0] == kGpt2Magic || header[0] == kLlama3Magic) {
    read_llm_c_header(file, header);
    return file;
  }
  if (header[0] == kEvaluationMagic || header[0] == kModelMagic) {
    throw DataError("{}: is {} of llm.c, no stream of token ids", path,
                    header[0] == kModelMagic ? "a model" : "an evaluation file");
  }
  file.width = headerless_width(bytes, tokenizer.vocab_size());
  if (bytes.size() % static_cast<size_t>(file.width) != 0) {
    throw DataError("{}: {} bytes are no file of uint{} ids, and it has no header of llm.c", path,
                    bytes.size(), 8 * file.width);
  }
  file.kind = file.width == 2 ? "uint16 without a header, as nanoGPT makes them"
                              : "uint32 without a header";
  file.data = bytes.data();
  file.count = bytes.size() / static_cast<size_t>(file.width);
  file.mark = tokenizer.eos_id();
  return file;
}

// A side's shards: tokens [first, end) of the files in order.
TokenColumn column_of(const std::vector<TokenFile>& files, uint64_t first, uint64_t end,
                      int64_t vocab_size) {
  TokenColumn tokens;
  tokens.limit_ids(vocab_size);
  uint64_t begin = 0;  // of the file
  for (const TokenFile& file : files) {
    const uint64_t from = std::max(first, begin);
    const uint64_t to = std::min(end, begin + file.count);
    if (from < to) {
      const auto skipped = (from - begin) * static_cast<uint64_t>(file.width);
      tokens.append(file.bytes, file.data + skipped, to - from, file.width, file.path);
    }
    begin += file.count;
  }
  return tokens;
}

// copy() refuses ids outside the vocabulary.
void check_ids(const TokenColumn& tokens, const TrainConfig& config) {
  const uint64_t runs = (tokens.size() + kCheckedAtOnce - 1) / kCheckedAtOnce;
  const bool all = config.verify_data || runs <= kCheckedPlaces;
  const auto check = [&](uint64_t run) {
    const uint64_t first = run * kCheckedAtOnce;
    std::array<int32_t, kCheckedAtOnce> ids;
    tokens.copy(first, std::min(kCheckedAtOnce, tokens.size() - first), ids.data());
  };
  if (!all) {
    for (uint64_t i = 0; i < kCheckedPlaces; ++i) check(i * (runs - 1) / (kCheckedPlaces - 1));
    return;
  }
  parallel_for(
      runs, resolve_threads(config.threads), "checking token ids",
      [](size_t) { return kCheckedAtOnce; }, check);
}

Dataset stream_of(const std::vector<TokenFile>& files, const std::vector<DataFile>& identities,
                  uint64_t first, uint64_t end, int64_t vocab_size) {
  Dataset dataset;
  dataset.is_text = true;
  dataset.tokens = column_of(files, first, end, vocab_size);
  dataset.offsets = Column<uint64_t>({0, dataset.tokens.size()});
  dataset.content_hashes = Column<uint64_t>({first});
  dataset.document_mark = files.front().mark;
  dataset.mark_begins_document = files.front().mark_begins_document;
  dataset.report.format = "token_bin";
  dataset.report.examples = files.size();
  dataset.report.tokens = dataset.tokens.size();
  dataset.report.learned_tokens = dataset.tokens.empty() ? 0 : dataset.tokens.size() - 1;
  Checksum hash;
  hash.add(fmt::format("{} {}", first, end));
  for (const DataFile& file : identities) hash.add(fmt::format(" {} {}", file.bytes, file.sample));
  dataset.hash = hash.hex();
  return dataset;
}

struct Shards {
  std::vector<TokenFile> files;
  std::vector<DataFile> identities;
  uint64_t tokens = 0;
};

Shards open_shards(const std::vector<std::string>& specs, const Tokenizer& tokenizer) {
  Shards shards;
  for (const std::string& spec : specs) {
    const Source source = parse_source(spec);
    TokenFile file = open_token_file(source.path, tokenizer);
    log::info("{}: {} token ids ({})", file.path, file.count, file.kind);
    if (!shards.files.empty() && file.kind != shards.files.front().kind) {
      throw DataError("{}: is {}, {} is {}: token files of one run must be of one kind", file.path,
                      file.kind, shards.files.front().path, shards.files.front().kind);
    }
    const uint64_t copies = whole_copies(source);
    shards.tokens += copies * file.count;
    shards.files.insert(shards.files.end(), copies, file);
    shards.identities.insert(shards.identities.end(), copies, identify(source.path));
  }
  return shards;
}

}  // namespace

bool are_token_files(const TrainConfig& config) {
  if (config.data_format != "auto") return config.data_format == "token_bin";
  const auto is_bin = [](const std::string& spec) {
    return parse_source(spec).path.ends_with(".bin");
  };
  const auto count = std::count_if(config.data.begin(), config.data.end(), is_bin) +
                     std::count_if(config.val_data.begin(), config.val_data.end(), is_bin);
  if (count == 0) return false;
  if (static_cast<size_t>(count) == config.data.size() + config.val_data.size()) return true;
  throw UsageError("data: files of token ids (.bin) and text cannot be mixed in one run");
}

DataSplit load_token_files(const TrainConfig& config, const Tokenizer& tokenizer) {
  if (resolve_packing(config, true) != Packing::sequential) {
    throw UsageError("packing '{}' needs examples; files of token ids are one stream: sequential",
                     config.packing);
  }
  const Shards shards = open_shards(config.data, tokenizer);
  const int64_t vocab_size = tokenizer.vocab_size();
  check_ids(column_of(shards.files, 0, shards.tokens, vocab_size), config);
  const bool splits = config.val_data.empty() && config.val_split > 0;
  if (splits && config.val_split_by == "hash") {
    throw UsageError("val_split_by 'hash' needs records; of token files the tail validates");
  }
  DataSplit split;
  const uint64_t held_out =
      splits ? static_cast<uint64_t>(config.val_split * static_cast<double>(shards.tokens)) : 0;
  const uint64_t kept = shards.tokens - held_out;
  split.train = stream_of(shards.files, shards.identities, 0, kept, vocab_size);
  split.files = shards.identities;
  if (held_out > 0) {
    split.validation = stream_of(shards.files, shards.identities, kept, shards.tokens, vocab_size);
  }
  if (!config.val_data.empty()) {
    const Shards given = open_shards(config.val_data, tokenizer);
    split.validation = stream_of(given.files, given.identities, 0, given.tokens, vocab_size);
    check_ids(split.validation.tokens, config);
    split.files.insert(split.files.end(), given.identities.begin(), given.identities.end());
  }
  return split;
}

}  // namespace train_sft

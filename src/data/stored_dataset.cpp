#include "stored_dataset.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"
#include "train_sft/base/signals.h"

namespace train_sft {
namespace {

constexpr uint64_t kSampledChunks = 8;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string hex_of(const std::vector<uint64_t>& hashes) {
  std::string text;
  for (const uint64_t hash : hashes) text += fmt::format("{:016x}", hash);
  return text;
}

std::vector<uint64_t> hashes_of(const std::string& hex, const std::string& where) {
  std::vector<uint64_t> hashes;
  if (hex.size() % 16 != 0 || hex.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw DataError("{}: malformed chunk hashes", where);
  }
  for (size_t i = 0; i < hex.size(); i += 16) {
    hashes.push_back(std::stoull(hex.substr(i, 16), nullptr, 16));
  }
  return hashes;
}

// A column's bytes and what keeps them alive.
struct Held {
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
};
using Opener = std::function<Held(const std::string&)>;

template <typename T>
Column<T> column(const Held& held, const std::string& name) {
  if (held.bytes % sizeof(T) != 0) {
    throw DataError("column {}: {} bytes are no array of {}-byte values", name, held.bytes,
                    sizeof(T));
  }
  return {held.owner, reinterpret_cast<const T*>(held.data), held.bytes / sizeof(T)};
}

Dataset open(const StoredDataset& stored, const std::string& token_name, int64_t vocab_size,
             const Opener& opener) {
  Dataset dataset;
  dataset.is_text = stored.is_text;
  dataset.report = stored.report;
  dataset.hash = stored.hash();
  const Held tokens = opener("tokens");
  const auto width = static_cast<uint64_t>(stored.token_bytes);
  dataset.tokens.append(tokens.owner, tokens.data, tokens.bytes / width, stored.token_bytes,
                        token_name);
  dataset.tokens.limit_ids(vocab_size);
  dataset.offsets = column<uint64_t>(opener("offsets"), "offsets");
  dataset.content_hashes = column<uint64_t>(opener("hashes"), "hashes");
  if (!stored.is_text) {
    dataset.ids = column<uint64_t>(opener("ids"), "ids");
    dataset.weights = WeightColumn(column<uint64_t>(opener("run_ends"), "run_ends"),
                                   column<float>(opener("run_weights"), "run_weights"));
  }
  const bool complete = dataset.content_hashes.size() == dataset.size() &&
                        (stored.is_text || dataset.ids.size() == dataset.size()) &&
                        !dataset.offsets.empty() && dataset.offsets[0] == 0 &&
                        dataset.offsets.back() == dataset.tokens.size();
  if (!complete) throw DataError("{}: its columns do not belong together", token_name);
  return dataset;
}

// A column's file, as long as the manifest says. Throws DataError.
MappedFile map_column(const std::string& path, const ColumnSummary& summary) {
  MappedFile file(path);
  if (file.bytes().size() != summary.bytes) {
    throw DataError("{}: {} bytes, the manifest says {}", path, file.bytes().size(), summary.bytes);
  }
  return file;
}

std::string column_path(const std::string& directory, const std::string& side,
                        const std::string& name) {
  return join_path(directory, side + "." + name);
}

}  // namespace

ColumnWriter::ColumnWriter(const std::string& path)
    : memory_(std::make_shared<std::vector<std::byte>>()) {
  if (!path.empty()) file_ = std::make_unique<FileWriter>(path, FileWriter::Mode::truncate);
}

void ColumnWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t part = std::min<size_t>(bytes.size(), kColumnChunk - chunk_.size());
    chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(part));
    bytes = bytes.subspan(part);
    if (chunk_.size() == kColumnChunk) end_chunk();
  }
}

void ColumnWriter::end_chunk() {
  if (chunk_.empty()) return;
  summary_.chunk_hashes.push_back(hash_string(as_text(chunk_)));
  summary_.bytes += chunk_.size();
  if (file_) {
    file_->write(chunk_);
  } else {
    memory_->insert(memory_->end(), chunk_.begin(), chunk_.end());
  }
  chunk_.clear();
}

ColumnSummary ColumnWriter::finish() {
  end_chunk();
  if (file_) {
    file_->sync();
    file_->close();
  }
  return summary_;
}

uint64_t StoredDataset::bytes() const {
  uint64_t sum = 0;
  for (const auto& [name, summary] : columns) sum += summary.bytes;
  return sum;
}

std::string StoredDataset::hash() const {
  Checksum sum;
  sum.add(fmt::format("{} {}", is_text, token_bytes));
  for (const auto& [name, summary] : columns) {
    if (name == "hashes") continue;  // of the text: the tokens say it
    sum.add(fmt::format("{} {} {}", name, summary.bytes, hex_of(summary.chunk_hashes)));
  }
  return sum.hex();
}

int bytes_of_ids(int64_t vocab_size) {
  return vocab_size <= 65536 ? 2 : 4;
}

Json to_json(const StoredDataset& stored) {
  Json columns = Json::object();
  for (const auto& [name, summary] : stored.columns) {
    columns[name] = {{"bytes", summary.bytes}, {"chunks", hex_of(summary.chunk_hashes)}};
  }
  return {{"is_text", stored.is_text},
          {"token_bytes", stored.token_bytes},
          {"columns", std::move(columns)},
          {"report", to_json(stored.report)}};
}

StoredDataset stored_dataset_from_json(const Json& json, const std::string& where) {
  StoredDataset stored;
  stored.is_text = json.value("is_text", false);
  stored.token_bytes = static_cast<int>(json_int(json, "token_bytes", where));
  if (stored.token_bytes != 2 && stored.token_bytes != 4) {
    throw DataError("{}: token_bytes must be 2 or 4", where);
  }
  for (const auto& [name, column] : json.at("columns").items()) {
    ColumnSummary summary;
    summary.bytes = static_cast<uint64_t>(json_int(column, "bytes", where));
    summary.chunk_hashes = hashes_of(json_string(column, "chunks", where), where);
    if (summary.chunk_hashes.size() != (summary.bytes + kColumnChunk - 1) / kColumnChunk) {
      throw DataError("{}: column {} has {} chunk hashes for {} bytes", where, name,
                      summary.chunk_hashes.size(), summary.bytes);
    }
    stored.columns[name] = std::move(summary);
  }
  stored.report = data_report_from_json(json.at("report"), where);
  return stored;
}

Dataset open_in_memory(const StoredDataset& stored, const std::map<std::string, ColumnBytes>& bytes,
                       int64_t vocab_size) {
  return open(stored, "the data", vocab_size, [&](const std::string& name) {
    const ColumnBytes& held = bytes.at(name);
    return Held{held, held->data(), held->size()};
  });
}

Dataset open_files(const StoredDataset& stored, const std::string& directory,
                   const std::string& side, int64_t vocab_size) {
  const auto opener = [&](const std::string& name) {
    const std::string path = column_path(directory, side, name);
    const auto found = stored.columns.find(name);
    if (found == stored.columns.end()) throw DataError("{}: is not in the manifest", path);
    auto file = std::make_shared<const MappedFile>(map_column(path, found->second));
    Held held;
    held.data = file->bytes().data();
    held.bytes = file->bytes().size();
    held.owner = std::move(file);
    return held;
  };
  return open(stored, column_path(directory, side, "tokens"), vocab_size, opener);
}

void verify_files(const StoredDataset& stored, const std::string& directory,
                  const std::string& side, bool every_chunk) {
  for (const auto& [name, summary] : stored.columns) {
    const std::string path = column_path(directory, side, name);
    const MappedFile file = map_column(path, summary);
    const uint64_t chunks = summary.chunk_hashes.size();
    const uint64_t checked = every_chunk ? chunks : std::min(chunks, kSampledChunks);
    for (uint64_t i = 0; i < checked; ++i) {
      signals::throw_if_stopped();
      // The first and the last among them.
      const uint64_t chunk = checked < 2 ? 0 : i * (chunks - 1) / (checked - 1);
      const uint64_t begin = chunk * kColumnChunk;
      const auto bytes =
          file.bytes().subspan(begin, std::min(kColumnChunk, file.bytes().size() - begin));
      if (hash_string(as_text(bytes)) != summary.chunk_hashes[chunk]) {
        throw DataError("{}: bytes {} to {} are not what was written", path, begin,
                        begin + bytes.size());
      }
    }
  }
}

}  // namespace train_sft

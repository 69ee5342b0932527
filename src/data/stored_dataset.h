// A dataset's columns as they are written, checked and opened again, in memory or as files.
//
// On disk a column is the bare array, little-endian, in a file <side>.<column>. Its XXH3-64 is
// taken in chunks of kColumnChunk bytes, so that a part of a large file can be checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train_sft/base/file.h"
#include "train_sft/data/dataset.h"

namespace train_sft {

inline constexpr uint64_t kColumnChunk = uint64_t{4} << 20;

struct ColumnSummary {
  uint64_t bytes = 0;
  std::vector<uint64_t> chunk_hashes;
};

using ColumnBytes = std::shared_ptr<const std::vector<std::byte>>;

// Collects a column in memory, or in the file `path`.
class ColumnWriter {
 public:
  explicit ColumnWriter(const std::string& path);
  template <typename T>
  void add(const T& value) {
    write(std::as_bytes(std::span(&value, 1)));
  }
  template <typename T>
  void add_all(std::span<const T> values) {
    write(std::as_bytes(values));
  }
  void write(std::span<const std::byte> bytes);
  // Makes the file durable. Call once; memory() is there afterwards.
  ColumnSummary finish();
  ColumnBytes memory() const { return memory_; }

 private:
  void end_chunk();

  std::unique_ptr<FileWriter> file_;
  std::shared_ptr<std::vector<std::byte>> memory_;
  std::vector<std::byte> chunk_;
  ColumnSummary summary_;
};

// What a manifest says of one side of the data.
struct StoredDataset {
  bool is_text = false;
  int token_bytes = 4;
  std::map<std::string, ColumnSummary> columns;
  DataReport report;

  uint64_t bytes() const;
  std::string hash() const;  // of the columns' contents
};

// 2 bytes hold every id of a vocabulary of up to 65,536.
int bytes_of_ids(int64_t vocab_size);

Json to_json(const StoredDataset& stored);
StoredDataset stored_dataset_from_json(const Json& json, const std::string& where);

Dataset open_in_memory(const StoredDataset& stored, const std::map<std::string, ColumnBytes>& bytes,
                       int64_t vocab_size);
// Maps the files <directory>/<side>.<column>. Throws DataError when one has not the recorded size.
Dataset open_files(const StoredDataset& stored, const std::string& directory,
                   const std::string& side, int64_t vocab_size);

// Reads columns against their hashes: every chunk, or the first, the last and six others of each
// file. Throws DataError naming the file and the place.
void verify_files(const StoredDataset& stored, const std::string& directory,
                  const std::string& side, bool every_chunk);

}  // namespace train_sft

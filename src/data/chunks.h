// The data files as a sequence of chunks, read one after another in bounded memory. Where chunks
// are cut depends on the files and the tokenizer alone, never on threads.
//
// A plain text file is one document in pieces; a JSON-lines file gives so many whole lines a chunk.
// A .json file (and JSON lines that hold an array) is read whole: its records need a parser.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "records.h"
#include "train_sft/base/checksum.h"
#include "train_sft/config/train_config.h"
#include "train_sft/data/dataset.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

enum class SourceKind { plain, lines, whole };

// A file as config.data names it.
struct DataSource {
  Source source;  // without records
  SourceKind kind = SourceKind::whole;
  double held_out = 0;     // of a plain text: the part of its characters at the end that validates
  bool validates = false;  // from val_data
  DataFile file;
  // Known once the chunks have been read:
  std::string checksum;        // of the file
  uint64_t document_hash = 0;  // of a plain text that is not split
  uint64_t first_part = 0, parts = 0;
};

// Looks at the beginning of each file. Throws DataError for what is not there or empty.
std::vector<DataSource> find_sources(const TrainConfig& config);

struct Chunk {
  uint64_t number = 0;  // over all files
  size_t source = 0;
  std::string text;  // of plain text and JSON lines
  size_t first_line = 1;
  bool goes_on = false;             // plain text: the document continues in the next chunk
  bool held_out = false;            // plain text: of the validation document
  bool ends = true;                 // plain text: the document's end is the text's end
  uint64_t document_hash = 0;       // plain text: of the whole document, at its last chunk
  std::shared_ptr<Source> records;  // of a file read whole: [begin, end) of them
  size_t begin = 0, end = 0;
  uint64_t input_hash = 0;
  uint64_t bytes = 0;  // of the file, for the progress bar
};

// Sources' chunks in order. Not for several threads at once.
class ChunkReader {
 public:
  // The tokenizer says where a plain text may be cut; without one it is one chunk.
  ChunkReader(std::vector<DataSource>& sources, const TrainConfig& config,
              const Tokenizer* tokenizer);
  ~ChunkReader();
  std::optional<Chunk> next();
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  class Stream;
  bool open_next_source();
  std::optional<Chunk> next_of_whole();

  std::vector<DataSource>& sources_;
  const TrainConfig& config_;
  const Tokenizer* tokenizer_;
  uint64_t total_bytes_ = 0;
  uint64_t chunk_bytes_ = 0;
  uint64_t number_ = 0;
  size_t source_ = 0;  // the open one, +1
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<Source> whole_;
  size_t whole_at_ = 0;
};

// A file's size, time and sample.
DataFile identify(const std::string& path);
// Whether the sample is of every byte.
bool is_sampled_whole(const DataFile& file);

}  // namespace train_sft

// Tokenised examples and how they were made: readers → conversations or documents → ids and mask.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/config/train_config.h"
#include "train_sft/data/column.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

// What reading and rendering did; logged, saved with the run, never silent.
struct DataReport {
  std::string format;       // as detected or given
  uint64_t examples = 0;    // records read
  uint64_t duplicates = 0;  // records equal to an earlier one
  uint64_t tokens = 0;
  uint64_t learned_tokens = 0;
  uint64_t truncated = 0;         // examples cut to block_size (overlong = truncate)
  uint64_t truncated_tokens = 0;  // tokens cut away
  uint64_t split_pieces = 0;
  std::map<std::string, uint64_t> dropped;  // reason → examples
  // Lengths in tokens as rendered, before overlong: at 0, 5, 25, 50, 75, 95 and 100 %.
  std::vector<uint64_t> length_percentiles;
  uint64_t rows = 0;         // filled in by add_rows() (loader.h)
  double fill = 0;           // real tokens / (rows × block_size)
  uint64_t tail_tokens = 0;  // of a text stream, left out
};

// Lines for the log: examples, tokens, learned tokens, rows, duplicates, what was dropped and why.
std::string describe(const DataReport& report);
Json to_json(const DataReport& report);
// The inverse of to_json: a report is kept with the token cache.
DataReport data_report_from_json(const Json& json, const std::string& where);

inline constexpr uint64_t kCopyStride = uint64_t{1} << 40;
inline constexpr uint64_t kPieceStride = uint64_t{1} << 52;

// Columnar and immutable after construction; in memory, or memory-mapped from the token cache or
// from token files.
struct Dataset {
  bool is_text = false;      // a stream cut into rows (text, packed sequentially); else examples
  TokenColumn tokens;        // all examples, one after another
  Column<uint64_t> offsets;  // [E+1] of examples (documents, for text)
  // [tokens] of predicting each token from those before it, 0 at each example's first; empty
  // for a text stream (all 1).
  WeightColumn weights;
  // [E] record number over all files in the order given (a plain text file is one record), plus
  // kCopyStride for each further copy that a data weight asked for and kPieceStride a split piece.
  // Empty for a text stream.
  Column<uint64_t> ids;
  Column<uint64_t> content_hashes;  // [E]
  // Token files have no offsets of documents: one ends after (or begins with) this id. -1: none.
  int32_t document_mark = -1;
  bool mark_begins_document = false;
  DataReport report;
  std::string hash;       // of tokens, offsets, weights and ids: the "data hash"
  std::string rows_path;  // where rows packed from it may be kept, a prefix; "" for memory only

  uint64_t size() const { return offsets.empty() ? 0 : offsets.size() - 1; }
  const std::string& fingerprint() const { return hash; }
};

// A data file as it was when it was read.
struct DataFile {
  std::string path;
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  std::string sample;  // checksum of 16 places of it; of all of it up to 16 MiB
};

// Names in {{…}} that data_vars does not fill, and how often each occurs.
using Placeholders = std::map<std::string, uint64_t>;

struct DataSplit {
  Dataset train;
  Dataset validation;    // empty when there is none
  uint64_t overlap = 0;  // validation examples whose content also occurs in train
  std::vector<DataFile> files;
  Placeholders unknown_vars;
};

// Reads config.data (and val_data), renders with the template, splits. Throws DataError with
// file:line and field; UsageError when nothing is to be learned at all.
//
// Split: val_split × n records (rounded up) with the lowest hash of their content, whatever the
// order, seed, tokenizer or block size; records of equal content go to the same side. By tail: the
// last val_split of the characters of each plain text file, or of the records.
// A data weight ("file*2.5") repeats training examples ⌊w⌋ times plus a fraction chosen by hash.
DataSplit load_data(const TrainConfig& config, const Tokenizer& tokenizer,
                    const ChatTemplate& chat_template);

// The raw texts of config.data (of more than 1 GiB, evenly spread chunks), for training a
// tokenizer.
std::vector<std::string> load_documents(const TrainConfig& config);

// Whether a directory is an entry of the token cache; what it holds, every byte checked: path,
// valid (and fault), bytes, files, options, train, validation, overlap.
bool is_token_cache(const std::string& directory);
Json inspect_token_cache(const std::string& directory);

// Whether config.data are files of token ids (.bin, or data_format token_bin). Throws UsageError
// for a mixture of them and text.
bool are_token_files(const TrainConfig& config);

// "conversation" formats train on turns; text formats on every token.
bool is_conversation_format(const std::string& format);

}  // namespace train_sft

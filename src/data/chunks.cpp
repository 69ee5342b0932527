#include "chunks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "text_file.h"
#include "text_stream.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/rng.h"
#include "train_sft/base/signals.h"
#include "train_sft/base/utf8.h"

namespace train_sft {
namespace {

constexpr uint64_t kSmallestChunk = uint64_t{64} << 10;
constexpr uint64_t kLargestChunk = uint64_t{4} << 20;
constexpr uint64_t kChunksOfASmallFile = 64;
constexpr uint64_t kSampledBytes = uint64_t{64} << 10;
constexpr uint64_t kSamples = 16;
constexpr uint64_t kSampledWhole = uint64_t{16} << 20;

uint64_t first_64_bits(const std::string& hex) {
  return std::stoull(hex.substr(0, 16), nullptr, 16);
}

// The characters of a text as tokenised, in constant memory.
uint64_t count_characters_of_file(const std::string& path) {
  TextStream stream(path, true);
  uint64_t count = 0;
  for (std::string text; stream.read(text); text.clear()) {
    signals::throw_if_stopped();
    count += count_characters(text);
  }
  return count;
}

// By its beginning where that holds the first record: a start must not read all of a large file.
std::string detect_whole(const std::string& path, const FieldMap& fields) {
  constexpr size_t kBeginning = size_t{1} << 20;
  TextStream stream(path, false);
  std::string text;
  bool ended = false;
  while (text.size() < kBeginning && !ended) ended = !stream.read(text);
  if (!ended) {
    try {
      return detect_in_text(text, path, fields);
    } catch (const DataError&) {
      // Cut within the first record, or malformed: all of it tells.
    }
  }
  return detect_in_text(TextFile(path).text(), path, fields);
}

DataSource find_source(const std::string& spec, const TrainConfig& config, const FieldMap& fields) {
  DataSource found;
  found.source = parse_source(spec);
  const std::string& path = found.source.path;
  require_data_file(path);
  if (!is_json_path(path)) {
    if (config.data_format != "auto" && config.data_format != "text") {
      throw UsageError("data_format '{}' needs a .json or .jsonl file; {} is read as plain text",
                       config.data_format, path);
    }
    found.kind = SourceKind::plain;
    found.source.format = "text";
  } else {
    const std::string first = first_line_of_json_lines(path);
    found.kind = first.empty() ? SourceKind::whole : SourceKind::lines;
    found.source.format = config.data_format;
    if (config.data_format == "auto") {
      found.source.format =
          first.empty() ? detect_whole(path, fields) : detect_in_text(first, path, fields);
    }
  }
  found.file = identify(path);
  return found;
}

uint64_t bytes_of(const DataRecord& record) {
  uint64_t bytes = record.document.size() + 16;
  for (const Message& message : record.conversation.messages) {
    bytes += message.content.size() + message.input.size();
  }
  return bytes;
}

}  // namespace

DataFile identify(const std::string& path) {
  const FileStatus status = file_status(path);
  DataFile file{path, status.bytes, status.modified_ns, {}};
  const MappedFile mapped(path);
  const auto bytes = mapped.bytes();
  Checksum sum;
  if (bytes.size() <= kSampledWhole) {
    sum.add(bytes);
  } else {
    for (uint64_t i = 0; i < kSamples; ++i) {
      const uint64_t at = (bytes.size() - kSampledBytes) / (kSamples - 1) * i;
      sum.add(bytes.subspan(at, kSampledBytes));
    }
  }
  file.sample = sum.hex();
  return file;
}

bool is_sampled_whole(const DataFile& file) {
  return file.bytes <= kSampledWhole;
}

std::vector<DataSource> find_sources(const TrainConfig& config) {
  const FieldMap fields(config.field_map);
  std::vector<DataSource> sources;
  for (const std::string& spec : config.data) sources.push_back(find_source(spec, config, fields));
  for (const std::string& spec : config.val_data) {
    sources.push_back(find_source(spec, config, fields));
    sources.back().source.weight = 1.0;
    sources.back().validates = true;
  }
  return sources;
}

// A text or JSON-lines file on its way to chunks.
class ChunkReader::Stream {
 public:
  Stream(DataSource& source, uint64_t chunk_bytes, const Tokenizer* tokenizer)
      : source_(source),
        chunk_bytes_(chunk_bytes),
        tokenizer_(tokenizer),
        is_plain_(source.kind == SourceKind::plain),
        text_(source.source.path, is_plain_) {
    if (source.held_out > 0) {
      const uint64_t characters = count_characters_of_file(source.source.path);
      characters_left_ =
          static_cast<uint64_t>((1.0 - source.held_out) * static_cast<double>(characters));
      limited_ = true;
    }
  }

  std::optional<Chunk> next() {
    while (true) {
      const size_t limit = document_end();
      const size_t cut = find_cut(limit);
      if (cut != std::string::npos) return take(cut, false);
      if (limit < pending_.size() || (limited_ && limit == pending_.size() && at_limit_)) {
        return take(limit, true);
      }
      if (at_end_) {
        if (pending_.empty() && (!is_plain_ || finished_)) return std::nullopt;
        return take(pending_.size(), true);
      }
      if (!is_plain_ && pending_.size() > kLongestRecord + chunk_bytes_) {
        throw DataError("{}:{}: a record of more than {} bytes", source_.source.path, line_,
                        kLongestRecord);
      }
      at_end_ = !text_.read(pending_);
      if (at_end_) source_.checksum = text_.checksum();
    }
  }

 private:
  // Where the training document ends in what is pending; npos when it goes on beyond.
  size_t document_end() {
    if (!limited_ || at_limit_) return at_limit_ ? limit_ : std::string::npos;
    const std::string_view fresh = std::string_view(pending_).substr(counted_bytes_);
    const uint64_t characters = count_characters(fresh);
    if (counted_characters_ + characters > characters_left_) {
      limit_ = counted_bytes_ + character_offset(fresh, characters_left_ - counted_characters_);
      at_limit_ = true;
      return limit_;
    }
    counted_bytes_ = pending_.size();
    counted_characters_ += characters;
    return std::string::npos;
  }

  // Where the tokenizer allows it, JSON lines behind a newline; npos: not there yet.
  size_t find_cut(size_t limit) {
    const std::string_view text = std::string_view(pending_).substr(0, limit);
    if (!is_plain_) {
      const size_t newline = text.find('\n', std::max<size_t>(chunk_bytes_ - 1, searched_));
      searched_ = text.size();
      return newline == std::string_view::npos ? newline : newline + 1;
    }
    // At each length once, however much of the text is there by then.
    for (; tokenizer_ != nullptr && text.size() > cut_limit_; cut_limit_ *= 2) {
      const size_t cut = tokenizer_->safe_cut(text, cut_limit_);
      if (cut > 0) return cut;
    }
    return std::string::npos;
  }

  Chunk take(size_t end, bool document_ends) {
    Chunk chunk;
    chunk.text = pending_.substr(0, end);
    chunk.bytes = text_.consumed() - std::exchange(consumed_, text_.consumed());
    chunk.first_line = line_;
    if (is_plain_) {
      hash_.add(chunk.text);
      chunk.goes_on = !document_ends;
      chunk.held_out = second_;
      chunk.ends = !limited_;
      if (document_ends) chunk.document_hash = end_document();
    }
    pending_.erase(0, end);
    line_ += static_cast<size_t>(std::count(chunk.text.begin(), chunk.text.end(), '\n'));
    searched_ = 0;
    cut_limit_ = chunk_bytes_;
    counted_characters_ = counted_bytes_ = 0;
    if (limited_) {
      characters_left_ -= count_characters(chunk.text);
      if (at_limit_) limit_ -= end;
    }
    if (is_plain_ && document_ends) begin_next_document();
    return chunk;
  }

  uint64_t end_document() {
    const uint64_t hash = first_64_bits(hash_.hex());
    hash_ = Checksum();
    source_.document_hash = hash;
    return hash;
  }

  void begin_next_document() {
    finished_ = !limited_;  // after a training document comes the validation document
    second_ = true;
    limited_ = at_limit_ = false;
  }

  DataSource& source_;
  uint64_t chunk_bytes_;
  const Tokenizer* tokenizer_;
  bool is_plain_;
  TextStream text_;
  std::string pending_;
  uint64_t consumed_ = 0;  // of the file, by the chunks so far
  bool at_end_ = false;
  size_t line_ = 1;
  size_t searched_ = 0;
  size_t cut_limit_ = chunk_bytes_;
  Checksum hash_;
  bool second_ = false, finished_ = false;
  bool limited_ = false;          // the document ends before the file does
  uint64_t characters_left_ = 0;  // of it, from the beginning of what is pending
  size_t counted_bytes_ = 0;
  uint64_t counted_characters_ = 0;
  bool at_limit_ = false;  // its end is pending, at limit_
  size_t limit_ = 0;
};

ChunkReader::ChunkReader(std::vector<DataSource>& sources, const TrainConfig& config,
                         const Tokenizer* tokenizer)
    : sources_(sources), config_(config), tokenizer_(tokenizer) {
  for (const DataSource& source : sources) total_bytes_ += source.file.bytes;
  chunk_bytes_ = std::clamp(total_bytes_ / kChunksOfASmallFile, kSmallestChunk, kLargestChunk);
}

ChunkReader::~ChunkReader() = default;

bool ChunkReader::open_next_source() {
  if (source_ == sources_.size()) return false;
  DataSource& source = sources_[source_++];
  source.first_part = number_;
  if (source.kind != SourceKind::whole) {
    stream_ = std::make_unique<Stream>(source, chunk_bytes_, tokenizer_);
    return true;
  }
  whole_ = std::make_shared<Source>(source.source);
  whole_at_ = 0;
  read_source(*whole_, config_);
  source.checksum = checksum_of_file(source.source.path);
  return true;
}

std::optional<Chunk> ChunkReader::next_of_whole() {
  const auto& records = whole_->records;
  if (whole_at_ == records.size()) return std::nullopt;
  Chunk chunk;
  chunk.records = whole_;
  chunk.begin = whole_at_;
  for (uint64_t bytes = 0; whole_at_ < records.size() && bytes < chunk_bytes_;) {
    bytes += bytes_of(records[whole_at_++]);
  }
  chunk.end = whole_at_;
  const uint64_t file_bytes = sources_[source_ - 1].file.bytes;
  chunk.bytes = file_bytes * chunk.end / records.size() - file_bytes * chunk.begin / records.size();
  return chunk;
}

std::optional<Chunk> ChunkReader::next() {
  while (true) {
    std::optional<Chunk> chunk;
    if (stream_) chunk = stream_->next();
    if (whole_) chunk = next_of_whole();
    if (!chunk) {
      stream_.reset();
      whole_.reset();
      if (!open_next_source()) return std::nullopt;
      continue;
    }
    chunk->source = source_ - 1;
    chunk->number = number_++;
    ++sources_[chunk->source].parts;
    std::string key = fmt::format("{} {} {} {} {:016x}", chunk->first_line, chunk->goes_on,
                                  chunk->held_out, chunk->ends, hash_string(chunk->text));
    for (size_t i = chunk->begin; i < chunk->end; ++i) {
      key += fmt::format(" {:016x}", chunk->records->records[i].content_hash);
    }
    chunk->input_hash = hash_string(key);
    return chunk;
  }
}

}  // namespace train_sft

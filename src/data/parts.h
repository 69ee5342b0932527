// A part: what the tokens of one chunk of input are, before anything is chosen, cut or packed. The
// bytes are the same in memory and in a file, so that a build that was killed goes on with the
// parts that are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "assemble.h"

namespace train_sft {

// A record of the chunk, or a piece of a long document.
struct Piece {
  static constexpr uint64_t kGoesOn = 1;   // the document continues in the next part
  static constexpr uint64_t kHeldOut = 2;  // of a document whose tail validates
  uint64_t content_hash = 0;               // of the whole record; 0 while it goes on
  uint64_t tokens = 0;
  uint64_t line = 1;
  uint64_t flags = 0;

  bool goes_on() const { return (flags & kGoesOn) != 0; }
  bool held_out() const { return (flags & kHeldOut) != 0; }
};

struct LossWeightRun {
  uint32_t tokens = 0;
  float weight = 0;
};

class PartWriter {
 public:
  explicit PartWriter(int token_bytes) : token_bytes_(token_bytes) {}
  // Tokens added since the last piece belong to this one.
  void add_tokens(const std::vector<int32_t>& ids);
  void add_weights(const std::vector<float>& weights);  // [ids], of examples
  void end_piece(Piece piece);
  void add_unknown_vars(const Placeholders& names);
  std::vector<std::byte> finish(uint64_t input_hash) const;

 private:
  int token_bytes_;
  std::vector<uint16_t> narrow_;
  std::vector<int32_t> wide_;
  std::vector<LossWeightRun> runs_;
  std::vector<Piece> pieces_;
  uint64_t piece_begin_ = 0;
  std::string unknown_;
};

// A part as it lies in memory or in a mapped file.
class Part {
 public:
  // Throws DataError when the bytes are no whole part. check: by checksum.
  Part(std::shared_ptr<const void> owner, std::span<const std::byte> bytes,
       const std::string& where, bool check);
  uint64_t input_hash() const { return input_hash_; }
  std::span<const Piece> pieces() const { return pieces_; }
  Placeholders unknown_vars() const;
  // Tokens [first, first + count) to the builder's document.
  void add_to_document(DatasetBuilder& builder, uint64_t first, uint64_t count) const;
  // The same as a record; `run` and `used` walk through the weight runs from {0, 0}.
  struct RunCursor {
    uint64_t run = 0;
    uint32_t used = 0;
  };
  RenderedRecord record(uint64_t first, uint64_t count, RunCursor& cursor) const;

 private:
  std::shared_ptr<const void> owner_;
  uint64_t input_hash_ = 0;
  std::span<const Piece> pieces_;
  std::span<const uint16_t> narrow_;
  std::span<const int32_t> wide_;
  std::span<const LossWeightRun> runs_;
  std::string_view unknown_;
};

// Parts by number, in memory or in a directory.
class PartStore {
 public:
  explicit PartStore(std::string directory) : directory_(std::move(directory)) {}
  // Whether a whole part of this input is there already.
  bool has(uint64_t number, uint64_t input_hash) const;
  void put(uint64_t number, std::vector<std::byte> bytes);
  Part get(uint64_t number) const;

 private:
  std::string path(uint64_t number) const;

  std::string directory_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const std::vector<std::byte>>> memory_;
};

}  // namespace train_sft

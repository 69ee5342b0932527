#include "data_reader.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

constexpr std::string_view kGzip = "\x1F\x8B";
constexpr std::string_view kZstd = "\x28\xB5\x2F\xFD";
constexpr size_t kBlock = size_t{256} << 10;
// A few kilobytes can unpack to fill any memory or disk; real text shrinks to a tenth or so.
constexpr uint64_t kAlwaysAllowed = uint64_t{1} << 30;
constexpr uint64_t kLargestRatio = 200;

[[noreturn]] void cut_short(const std::string& path, const char* what) {
  throw DataError("{}: the {} data ends too early; is the file cut short?", path, what);
}

}  // namespace

bool is_compressed(std::string_view beginning) {
  return beginning.starts_with(kGzip) || beginning.starts_with(kZstd);
}

// The file's own bytes, block by block.
class DataReader::Input {
 public:
  explicit Input(const std::string& path) : file_(path), block_(kBlock) { refill(); }

  std::span<const std::byte> rest() const { return std::span(block_).subspan(at_, filled_ - at_); }
  void take(size_t bytes) {
    at_ += bytes;
    consumed_ += bytes;
  }
  // False at the end of the file; call when nothing is left.
  bool refill() {
    if (ended_) return false;
    filled_ = file_.read(block_);
    ended_ = filled_ < block_.size();
    at_ = 0;
    sum_.add(std::span<const std::byte>(block_).first(filled_));
    return filled_ > 0;
  }
  uint64_t consumed() const { return consumed_; }
  std::string checksum() const { return sum_.hex(); }

 private:
  FileReader file_;
  Checksum sum_;
  std::vector<std::byte> block_;
  size_t at_ = 0, filled_ = 0;
  uint64_t consumed_ = 0;
  bool ended_ = false;
};

class DataReader::Unpacker {
 public:
  virtual ~Unpacker() = default;
  // Some bytes to out, of at least one; 0 at the end.
  virtual size_t unpack(Input& input, std::span<std::byte> out) = 0;
};

class DataReader::Gunzip : public Unpacker {
 public:
  explicit Gunzip(const std::string& path) : path_(path) {
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) throw ResourceError("{}: no memory", path);
  }
  ~Gunzip() override { inflateEnd(&stream_); }

  size_t unpack(Input& input, std::span<std::byte> out) override {
    while (true) {
      if (input.rest().empty() && !input.refill()) {
        if (inside_) cut_short(path_, "gzip");
        return 0;
      }
      if (!inside_ && !begin_member(input)) continue;
      const auto given = input.rest();
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(given.data()));
      stream_.avail_in = static_cast<uInt>(given.size());
      stream_.next_out = reinterpret_cast<Bytef*>(out.data());
      stream_.avail_out = static_cast<uInt>(out.size());
      const int status = inflate(&stream_, Z_NO_FLUSH);
      input.take(given.size() - stream_.avail_in);
      if (status == Z_STREAM_END) {
        inside_ = false;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        throw DataError("{}: damaged gzip data at byte {} ({})", path_, input.consumed(),
                        stream_.msg != nullptr ? stream_.msg : "unknown reason");
      }
      const size_t count = out.size() - stream_.avail_out;
      if (count > 0) return count;
    }
  }

 private:
  // Behind the first member tools may pad with zeros.
  bool begin_member(Input& input) {
    const auto rest = input.rest();
    const auto used =
        std::find_if(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; });
    input.take(static_cast<size_t>(used - rest.begin()));
    if (used == rest.end()) return false;
    inflateReset(&stream_);
    inside_ = true;
    return true;
  }

  const std::string& path_;
  z_stream stream_{};
  bool inside_ = true;  // a member
};

class DataReader::Unzstd : public Unpacker {
 public:
  explicit Unzstd(const std::string& path)
      : path_(path), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    if (!stream_) throw ResourceError("{}: no memory", path);
  }

  size_t unpack(Input& input, std::span<std::byte> out) override {
    while (true) {
      const bool ended = input.rest().empty() && !input.refill();
      if (ended && wanted_ == 0) return 0;
      const auto given = input.rest();
      ZSTD_inBuffer in{given.data(), given.size(), 0};
      ZSTD_outBuffer chunk{out.data(), out.size(), 0};
      wanted_ = ZSTD_decompressStream(stream_.get(), &chunk, &in);
      input.take(in.pos);
      if (ZSTD_isError(wanted_)) {
        throw DataError("{}: damaged zstd data at byte {} ({})", path_, input.consumed(),
                        ZSTD_getErrorName(wanted_));
      }
      if (chunk.pos > 0) return chunk.pos;
      if (ended && wanted_ != 0) cut_short(path_, "zstd");
    }
  }

 private:
  const std::string& path_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  size_t wanted_ = 1;  // 0: at the end of a frame
};

DataReader::DataReader(const std::string& path)
    : path_(path),
      input_(std::make_unique<Input>(path)),
      limit_(std::max(kAlwaysAllowed, file_size(path) * kLargestRatio)) {
  const auto head = input_->rest();
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  if (text.starts_with(kGzip)) unpacker_ = std::make_unique<Gunzip>(path_);
  if (text.starts_with(kZstd)) unpacker_ = std::make_unique<Unzstd>(path_);
}

DataReader::~DataReader() = default;

size_t DataReader::read(std::span<std::byte> buffer) {
  size_t filled = 0;
  while (filled < buffer.size()) {
    const auto out = buffer.subspan(filled);
    if (unpacker_) {
      const size_t count = unpacker_->unpack(*input_, out);
      if (count == 0) break;
      filled += count;
      given_ += count;
      if (given_ > limit_) {
        throw DataError(
            "{}: unpacks to more than {} bytes, {} times its size: that is no text to train on",
            path_, limit_, kLargestRatio);
      }
      continue;
    }
    if (input_->rest().empty() && !input_->refill()) break;
    const auto given = input_->rest();
    const size_t count = std::min(given.size(), out.size());
    std::memcpy(out.data(), given.data(), count);
    input_->take(count);
    filled += count;
  }
  return filled;
}

uint64_t DataReader::consumed() const {
  return input_->consumed();
}

std::string DataReader::checksum() const {
  return input_->checksum();
}

}  // namespace train_sft

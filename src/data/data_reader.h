// The bytes of a data file, unpacked where it is compressed, read piece by piece in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace train_sft {

// gzip (RFC 1952, members one after another) and Zstandard (RFC 8878, frames one after another) are
// recognised by their first bytes. Throws DataError for data that are damaged or cut short, and for
// such that unpack to more than 1 GiB and 200 times their size.
class DataReader {
 public:
  explicit DataReader(const std::string& path);
  ~DataReader();
  // Fills the buffer as far as the data go; fewer bytes than asked for only at their end.
  size_t read(std::span<std::byte> buffer);
  uint64_t consumed() const;     // bytes of the file that what was read so far is made of
  std::string checksum() const;  // of the file's bytes, once all of it has been read

 private:
  class Input;
  class Unpacker;
  class Gunzip;
  class Unzstd;

  std::string path_;
  std::unique_ptr<Input> input_;
  std::unique_ptr<Unpacker> unpacker_;
  uint64_t given_ = 0, limit_ = 0;
};

bool is_compressed(std::string_view beginning);

}  // namespace train_sft

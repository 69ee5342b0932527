// Zip archives as torch.save writes them: members stored, never compressed (PKWARE APPNOTE 6.3,
// with the zip64 records for archives beyond 4 GB).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "train_sft/base/file.h"

namespace train_sft {

// Reads through a memory map. Every record is checked against the file's size; a member that is
// compressed or encrypted is refused. Throws CheckpointError.
class ZipFile {
 public:
  explicit ZipFile(const std::string& path);
  const std::map<std::string, std::span<const std::byte>>& members() const { return members_; }
  // nullptr when there is none of this name.
  const std::span<const std::byte>* find(const std::string& name) const;

 private:
  MappedFile file_;
  std::map<std::string, std::span<const std::byte>> members_;
};

class ZipWriter {
 public:
  explicit ZipWriter(const std::string& path);
  ~ZipWriter();
  // The member's bytes begin at a multiple of 64, as torch wants them for memory maps.
  void add(const std::string& name, std::span<const std::byte> bytes);
  void finish();  // writes the directory and syncs

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace train_sft

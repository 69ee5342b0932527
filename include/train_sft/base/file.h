// All file access of the program. Everything here goes through FileSystem (base/file_system.h), the
// one seam at which tests inject faults. Paths are UTF-8 byte strings.
//
// Errors: a failed read throws DataError, a failed write ResourceError; both name the path, the
// operation and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

bool path_exists(const std::string& path);
bool is_directory(const std::string& path);
uint64_t file_size(const std::string& path);
uint64_t free_bytes_at(const std::string& path);  // of the file system that holds path
std::vector<std::string> list_directory(const std::string& path);  // sorted names, without . and ..
std::string join_path(std::string_view a, std::string_view b);
std::string parent_path(const std::string& path);
std::string base_name(const std::string& path);
void make_directories(const std::string& path);
void remove_tree(const std::string& path);
void truncate_file(const std::string& path, uint64_t bytes);
std::string read_link(const std::string& path);  // "" when path is not a link

// Whole file in memory. Throws DataError over max_bytes: a mistaken path must not eat the machine.
std::string read_file(const std::string& path, uint64_t max_bytes = uint64_t{1} << 30);

// Read-only memory map.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Sequential reader of a file that may be larger than memory.
class FileReader {
 public:
  explicit FileReader(const std::string& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  // Fills the buffer as far as the file goes; fewer bytes than asked for only at its end.
  size_t read(std::span<std::byte> buffer);

 private:
  std::string path_;
  int fd_ = -1;
};

// What stat() says, to recognise a file again.
struct FileStatus {
  uint64_t bytes = 0;
  int64_t modified_ns = 0;  // since 1970
};
FileStatus file_status(const std::string& path);

// Sequential writer. Nothing is durable before sync().
class FileWriter {
 public:
  enum class Mode { truncate, append };
  FileWriter(const std::string& path, Mode mode);
  ~FileWriter();  // closes; does not sync
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void flush();  // hands buffered bytes to the kernel
  void sync();   // flush + fsync
  void close();  // flush + close, reporting errors the destructor would swallow
  uint64_t bytes_written() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Writes path.tmp, fsyncs it, renames over path, fsyncs the parent: old or new, never half.
void write_file_atomically(const std::string& path, std::string_view contents);
// Renames a finished directory, whose files are already synced, to its final name, durably.
void commit_directory(const std::string& temporary, const std::string& final_path);
// The same for a single file.
void commit_file(const std::string& temporary, const std::string& final_path);
// Points link at target (relative to the link's folder) atomically and durably.
void replace_link(const std::string& link, const std::string& target);

// Exclusive lock on a run directory (flock on <dir>/.lock, which names pid, host and start time).
// Throws UsageError naming the owner when another process holds it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace train_sft

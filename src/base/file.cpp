#include "train_sft/base/file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "train_sft/base/disk_wait.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file_system.h"
#include "train_sft/base/sync_directory.h"

namespace train_sft {
namespace {

// Runs a call again while a signal interrupts it.
template <typename Call>
auto retry(Call call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result == -1 && errno == EINTR);
  return result;
}

std::string reason() {
  return std::strerror(errno);
}

[[noreturn]] void fail_read(const std::string& path, const char* operation) {
  throw DataError("{}: cannot {}: {}", path, operation, reason());
}

[[noreturn]] void fail_write(const std::string& path, const char* operation) {
  const char* remedy = errno == ENOSPC || errno == EDQUOT
                           ? "; free some space or choose another place"
                       : errno == EACCES || errno == EROFS || errno == EPERM
                           ? "; choose a place this user may write to"
                           : "";
  throw ResourceError("{}: cannot {}: {}{}", path, operation, reason(), remedy);
}

bool status_of(const std::string& path, struct ::stat& status) {
  return retry([&] { return file_system().stat(path, status); }) == 0;
}

// A descriptor closed with its scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) file_system().close(fd);
  }
};

// What is read more than once, or mapped. Opening a pipe that nobody writes to would wait for ever.
void require_file_proper(const std::string& path, const struct ::stat& status) {
  if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) return;
  throw DataError(
      "{}: is a pipe or a device, which can be read once only; save its contents to a file first",
      path);
}

int open_for_reading(const std::string& path) {
  const int fd = retry([&] { return file_system().open(path, O_RDONLY, 0); });
  if (fd < 0) fail_read(path, "open");
  return fd;
}

struct ::stat open_status(const std::string& path, int fd) {
  struct ::stat status {};
  if (retry([&] { return file_system().fstat(fd, status); }) != 0) fail_read(path, "stat");
  if (S_ISDIR(status.st_mode)) {
    throw DataError("{}: is a directory, expected a file", path);
  }
  return status;
}

bool try_sync_directory(const std::string& path) {
  const std::string directory = path.empty() ? "." : path;
  const disk_wait::Call call("fsync", directory);
  Descriptor handle{
      retry([&] { return file_system().open(directory, O_RDONLY | O_DIRECTORY, 0); })};
  if (handle.fd < 0) return false;
  // Network file systems that know no fsync of a folder answer EINVAL.
  return retry([&] { return file_system().fsync(handle.fd); }) == 0 || errno == EINVAL;
}

void rename_durably(const std::string& from, const std::string& to) {
  {
    const disk_wait::Call call("rename", from);
    if (retry([&] { return file_system().rename(from, to); }) != 0)
      fail_write(to, "rename into place");
  }
  sync_directory(parent_path(to));
}

}  // namespace

void sync_directory(const std::string& path) {
  if (!try_sync_directory(path)) fail_write(path.empty() ? "." : path, "fsync");
}

bool path_exists(const std::string& path) {
  struct ::stat status {};
  return status_of(path, status);
}

bool is_directory(const std::string& path) {
  struct ::stat status {};
  return status_of(path, status) && S_ISDIR(status.st_mode);
}

uint64_t file_size(const std::string& path) {
  struct ::stat status {};
  if (!status_of(path, status)) fail_read(path, "stat");
  require_file_proper(path, status);
  return static_cast<uint64_t>(status.st_size);
}

uint64_t free_bytes_at(const std::string& path) {
  std::string existing = path.empty() ? "." : path;
  while (!path_exists(existing) && existing != "/" && existing != ".") {
    existing = parent_path(existing);
    if (existing.empty()) existing = ".";
  }
  struct ::statvfs status {};
  if (retry([&] { return file_system().statvfs(existing, status); }) != 0) {
    fail_read(existing, "statvfs");
  }
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> names;
  if (retry([&] { return file_system().list(path, names); }) != 0) fail_read(path, "list");
  std::sort(names.begin(), names.end());
  return names;
}

std::string join_path(std::string_view a, std::string_view b) {
  if (a.empty() || (!b.empty() && b.front() == '/')) return std::string(b);
  if (b.empty()) return std::string(a);
  std::string joined(a);
  if (joined.back() != '/') joined += '/';
  joined += b;
  return joined;
}

static std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_path(const std::string& path) {
  const std::string clean = without_trailing_slashes(path);
  const size_t slash = clean.rfind('/');
  if (slash == std::string::npos) return "";
  return slash == 0 ? "/" : without_trailing_slashes(clean.substr(0, slash));
}

std::string base_name(const std::string& path) {
  const std::string clean = without_trailing_slashes(path);
  const size_t slash = clean.rfind('/');
  return slash == std::string::npos || clean == "/" ? clean : clean.substr(slash + 1);
}

void make_directories(const std::string& path) {
  const std::string clean = without_trailing_slashes(path);
  if (clean.empty() || is_directory(clean)) return;
  make_directories(parent_path(clean));
  if (retry([&] { return file_system().mkdir(clean, 0777); }) != 0) {
    // Another process may have made it meanwhile.
    if (errno == EEXIST && is_directory(clean)) return;
    fail_write(clean, "make directory");
  }
  // What is promised inside it must not be lost with its name. A folder that may be written but not
  // read cannot be synced.
  if (!try_sync_directory(parent_path(clean)) && errno != EACCES && errno != EPERM)
    fail_write(clean, "make durable");
}

void remove_tree(const std::string& path) {
  struct ::stat status {};
  if (retry([&] { return file_system().lstat(path, status); }) != 0) {
    if (errno == ENOENT) return;
    fail_write(path, "stat");
  }
  if (S_ISDIR(status.st_mode)) {
    for (const std::string& name : list_directory(path)) remove_tree(join_path(path, name));
    if (retry([&] { return file_system().rmdir(path); }) != 0) fail_write(path, "remove directory");
  } else if (retry([&] { return file_system().unlink(path); }) != 0) {
    fail_write(path, "remove");
  }
}

void truncate_file(const std::string& path, uint64_t bytes) {
  if (retry([&] { return file_system().truncate(path, bytes); }) != 0) fail_write(path, "truncate");
}

std::string read_link(const std::string& path) {
  std::string target(4096, '\0');
  const ssize_t length =
      retry([&] { return file_system().readlink(path, target.data(), target.size()); });
  if (length < 0) return "";
  target.resize(static_cast<size_t>(length));
  return target;
}

std::string read_file(const std::string& path, uint64_t max_bytes) {
  Descriptor handle{open_for_reading(path)};
  const struct ::stat status = open_status(path, handle.fd);
  const auto announced = static_cast<uint64_t>(std::max<off_t>(status.st_size, 0));
  if (announced > max_bytes) {
    throw DataError("{}: {} bytes, more than the {} a file of this kind may have", path, announced,
                    max_bytes);
  }
  // One byte more than announced, so that the end is seen without a second growth. Files of /proc
  // and pipes announce 0 and are read to their end all the same.
  std::string contents;
  size_t filled = 0;
  contents.resize(std::max<uint64_t>(announced + 1, 4096));
  while (true) {
    if (filled == contents.size()) contents.resize(contents.size() * 2);
    const ssize_t count = retry([&] {
      return file_system().read(handle.fd, contents.data() + filled, contents.size() - filled);
    });
    if (count < 0) fail_read(path, "read");
    if (count == 0) break;
    filled += static_cast<size_t>(count);
    if (filled > max_bytes) {
      throw DataError("{}: more than the {} bytes a file of this kind may have", path, max_bytes);
    }
  }
  contents.resize(filled);
  return contents;
}

FileReader::FileReader(const std::string& path) : path_(path), fd_(open_for_reading(path)) {
  Descriptor handle{fd_};
  open_status(path, fd_);
  handle.fd = -1;
}

FileReader::~FileReader() {
  file_system().close(fd_);
}

size_t FileReader::read(std::span<std::byte> buffer) {
  size_t filled = 0;
  while (filled < buffer.size()) {
    const ssize_t count = retry(
        [&] { return file_system().read(fd_, buffer.data() + filled, buffer.size() - filled); });
    if (count < 0) fail_read(path_, "read");
    if (count == 0) break;
    filled += static_cast<size_t>(count);
  }
  return filled;
}

FileStatus file_status(const std::string& path) {
  struct ::stat status {};
  if (!status_of(path, status)) fail_read(path, "stat");
  const auto& modified = status.st_mtim;
  return {static_cast<uint64_t>(status.st_size),
          int64_t{modified.tv_sec} * 1'000'000'000 + modified.tv_nsec};
}

MappedFile::MappedFile(const std::string& path) {
  struct ::stat status {};
  if (status_of(path, status)) require_file_proper(path, status);
  Descriptor handle{open_for_reading(path)};
  size_ = static_cast<size_t>(open_status(path, handle.fd).st_size);
  if (size_ == 0) return;  // mmap refuses an empty range
  void* address = file_system().mmap(handle.fd, size_);
  if (address == nullptr) fail_read(path, "map into memory");
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) file_system().munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void write_file_atomically(const std::string& path, std::string_view contents) {
  const std::string temporary = path + ".tmp";
  FileWriter writer(temporary, FileWriter::Mode::truncate);
  writer.write(contents);
  writer.sync();
  writer.close();
  rename_durably(temporary, path);
}

void commit_directory(const std::string& temporary, const std::string& final_path) {
  // The names inside must be durable before the name that promises them.
  sync_directory(temporary);
  rename_durably(temporary, final_path);
}

void commit_file(const std::string& temporary, const std::string& final_path) {
  rename_durably(temporary, final_path);
}

void replace_link(const std::string& link, const std::string& target) {
  const std::string temporary = link + ".tmp";
  if (retry([&] { return file_system().unlink(temporary); }) != 0 && errno != ENOENT) {
    fail_write(temporary, "remove");
  }
  if (retry([&] { return file_system().symlink(target, temporary); }) != 0) {
    fail_write(temporary, "make link");
  }
  rename_durably(temporary, link);
}

}  // namespace train_sft

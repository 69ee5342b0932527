#include "train_sft/base/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace train_sft {
namespace {

class PosixFileSystem final : public FileSystem {
 public:
  int open(const std::string& path, int flags, mode_t mode) override {
    return ::open(path.c_str(), flags | O_CLOEXEC, mode);
  }
  ssize_t read(int fd, void* bytes, size_t count) override { return ::read(fd, bytes, count); }
  ssize_t pread(int fd, void* bytes, size_t count, uint64_t offset) override {
    return ::pread(fd, bytes, count, static_cast<off_t>(offset));
  }
  ssize_t write(int fd, const void* bytes, size_t count) override {
    return ::write(fd, bytes, count);
  }
  int fsync(int fd) override { return ::fsync(fd); }
  int close(int fd) override { return ::close(fd); }
  int rename(const std::string& from, const std::string& to) override {
    return ::rename(from.c_str(), to.c_str());
  }
  int unlink(const std::string& path) override { return ::unlink(path.c_str()); }
  int mkdir(const std::string& path, mode_t mode) override { return ::mkdir(path.c_str(), mode); }
  int rmdir(const std::string& path) override { return ::rmdir(path.c_str()); }
  int symlink(const std::string& target, const std::string& link) override {
    return ::symlink(target.c_str(), link.c_str());
  }
  ssize_t readlink(const std::string& path, char* buffer, size_t count) override {
    return ::readlink(path.c_str(), buffer, count);
  }
  int stat(const std::string& path, struct ::stat& status) override {
    return ::stat(path.c_str(), &status);
  }
  int lstat(const std::string& path, struct ::stat& status) override {
    return ::lstat(path.c_str(), &status);
  }
  int fstat(int fd, struct ::stat& status) override { return ::fstat(fd, &status); }
  int list(const std::string& path, std::vector<std::string>& names) override {
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return -1;
    names.clear();
    errno = 0;
    while (const dirent* entry = ::readdir(directory)) {
      if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) {
        names.emplace_back(entry->d_name);
      }
      errno = 0;
    }
    const int error = errno;
    ::closedir(directory);
    errno = error;
    return error == 0 ? 0 : -1;
  }
  int truncate(const std::string& path, uint64_t bytes) override {
    return ::truncate(path.c_str(), static_cast<off_t>(bytes));
  }
  void* mmap(int fd, size_t bytes) override {
    void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    return address == MAP_FAILED ? nullptr : address;
  }
  int munmap(void* address, size_t bytes) override { return ::munmap(address, bytes); }
  int flock(int fd, int operation) override { return ::flock(fd, operation); }
  int statvfs(const std::string& path, struct ::statvfs& status) override {
    return ::statvfs(path.c_str(), &status);
  }
};

std::atomic<FileSystem*> replacement{nullptr};

}  // namespace

FileSystem& posix_file_system() {
  static PosixFileSystem posix;
  return posix;
}

FileSystem& file_system() {
  FileSystem* installed = replacement.load();
  return installed != nullptr ? *installed : posix_file_system();
}

ScopedFileSystem::ScopedFileSystem(FileSystem& replacement_file_system)
    : previous_(replacement.exchange(&replacement_file_system)) {}

ScopedFileSystem::~ScopedFileSystem() {
  replacement.store(previous_);
}

}  // namespace train_sft

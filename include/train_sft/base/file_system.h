// The one seam between the program and the file system, at the granularity of system calls: a test
// that installs its own FileSystem can fail, shorten or drop the n-th call of a run.
//
// Each method behaves like the system call of its name: it returns -1 (nullptr for mmap) and sets
// errno on failure, may return early with EINTR, and write() and pread() may be short. Retrying is
// the business of base/file.h, above the seam. Nothing else in the program opens a file.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace train_sft {

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual int open(const std::string& path, int flags, mode_t mode) = 0;
  virtual ssize_t read(int fd, void* bytes, size_t count) = 0;
  virtual ssize_t pread(int fd, void* bytes, size_t count, uint64_t offset) = 0;
  virtual ssize_t write(int fd, const void* bytes, size_t count) = 0;
  virtual int fsync(int fd) = 0;
  virtual int close(int fd) = 0;
  virtual int rename(const std::string& from, const std::string& to) = 0;
  virtual int unlink(const std::string& path) = 0;
  virtual int mkdir(const std::string& path, mode_t mode) = 0;
  virtual int rmdir(const std::string& path) = 0;
  virtual int symlink(const std::string& target, const std::string& link) = 0;
  virtual ssize_t readlink(const std::string& path, char* buffer, size_t count) = 0;
  virtual int stat(const std::string& path, struct ::stat& status) = 0;   // follows links
  virtual int lstat(const std::string& path, struct ::stat& status) = 0;  // does not
  virtual int fstat(int fd, struct ::stat& status) = 0;
  virtual int list(const std::string& path,
                   std::vector<std::string>& names) = 0;  // without . and ..
  virtual int truncate(const std::string& path, uint64_t bytes) = 0;
  virtual void* mmap(int fd, size_t bytes) = 0;  // read-only, private
  virtual int munmap(void* address, size_t bytes) = 0;
  virtual int flock(int fd, int operation) = 0;
  virtual int statvfs(const std::string& path, struct ::statvfs& status) = 0;
};

// Forwards every call to another FileSystem: the base of fault injectors, which override a few.
class ForwardingFileSystem : public FileSystem {
 public:
  explicit ForwardingFileSystem(FileSystem& target) : target_(target) {}
  int open(const std::string& path, int flags, mode_t mode) override {
    return target_.open(path, flags, mode);
  }
  ssize_t read(int fd, void* bytes, size_t count) override {
    return target_.read(fd, bytes, count);
  }
  ssize_t pread(int fd, void* bytes, size_t count, uint64_t offset) override {
    return target_.pread(fd, bytes, count, offset);
  }
  ssize_t write(int fd, const void* bytes, size_t count) override {
    return target_.write(fd, bytes, count);
  }
  int fsync(int fd) override { return target_.fsync(fd); }
  int close(int fd) override { return target_.close(fd); }
  int rename(const std::string& from, const std::string& to) override {
    return target_.rename(from, to);
  }
  int unlink(const std::string& path) override { return target_.unlink(path); }
  int mkdir(const std::string& path, mode_t mode) override { return target_.mkdir(path, mode); }
  int rmdir(const std::string& path) override { return target_.rmdir(path); }
  int symlink(const std::string& target, const std::string& link) override {
    return target_.symlink(target, link);
  }
  ssize_t readlink(const std::string& path, char* buffer, size_t count) override {
    return target_.readlink(path, buffer, count);
  }
  int stat(const std::string& path, struct ::stat& status) override {
    return target_.stat(path, status);
  }
  int lstat(const std::string& path, struct ::stat& status) override {
    return target_.lstat(path, status);
  }
  int fstat(int fd, struct ::stat& status) override { return target_.fstat(fd, status); }
  int list(const std::string& path, std::vector<std::string>& names) override {
    return target_.list(path, names);
  }
  int truncate(const std::string& path, uint64_t bytes) override {
    return target_.truncate(path, bytes);
  }
  void* mmap(int fd, size_t bytes) override { return target_.mmap(fd, bytes); }
  int munmap(void* address, size_t bytes) override { return target_.munmap(address, bytes); }
  int flock(int fd, int operation) override { return target_.flock(fd, operation); }
  int statvfs(const std::string& path, struct ::statvfs& status) override {
    return target_.statvfs(path, status);
  }

 private:
  FileSystem& target_;
};

FileSystem& posix_file_system();
// The one in force: the POSIX one unless a ScopedFileSystem is alive.
FileSystem& file_system();

// Installs a FileSystem for a scope (all threads). For tests.
class ScopedFileSystem {
 public:
  explicit ScopedFileSystem(FileSystem& replacement);
  ~ScopedFileSystem();
  ScopedFileSystem(const ScopedFileSystem&) = delete;
  ScopedFileSystem& operator=(const ScopedFileSystem&) = delete;

 private:
  FileSystem* previous_;
};

}  // namespace train_sft

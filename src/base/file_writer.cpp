#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "train_sft/base/disk_wait.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/file_system.h"

namespace train_sft {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

// All bytes, however many system calls that takes.
bool write_fully(int fd, const char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t written = file_system().write(fd, bytes, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    if (written == 0) {
      errno = EIO;  // a device that takes nothing and reports nothing
      return false;
    }
    bytes += written;
    count -= static_cast<size_t>(written);
  }
  return true;
}

int open_retrying(const std::string& path, int flags) {
  int fd;
  do {
    fd = file_system().open(path, flags, 0666);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

}  // namespace

struct FileWriter::State {
  std::string path;
  int fd = -1;
  std::string buffer;
  uint64_t written = 0;

  [[noreturn]] void fail(const char* operation) const {
    throw ResourceError("{}: cannot {}: {}", path, operation, std::strerror(errno));
  }
};

FileWriter::FileWriter(const std::string& path, Mode mode) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->fd =
      open_retrying(path, O_WRONLY | O_CREAT | (mode == Mode::truncate ? O_TRUNC : O_APPEND));
  if (state_->fd < 0) state_->fail("open for writing");
}

FileWriter::~FileWriter() {
  if (state_->fd < 0) return;
  // Whoever cares whether this works calls close() or sync().
  write_fully(state_->fd, state_->buffer.data(), state_->buffer.size());
  file_system().close(state_->fd);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void FileWriter::write(std::string_view text) {
  TRAIN_SFT_CHECK(state_->fd >= 0, "{}: written after close", state_->path);
  state_->written += text.size();
  if (state_->buffer.size() + text.size() > kBufferBytes) flush();
  if (text.size() > kBufferBytes) {
    if (!write_fully(state_->fd, text.data(), text.size())) state_->fail("write");
  } else {
    state_->buffer += text;
  }
}

void FileWriter::flush() {
  TRAIN_SFT_CHECK(state_->fd >= 0, "{}: flushed after close", state_->path);
  if (!write_fully(state_->fd, state_->buffer.data(), state_->buffer.size())) {
    state_->buffer.clear();  // part of it is in the file; the destructor must not repeat it
    state_->fail("write");
  }
  state_->buffer.clear();
}

void FileWriter::sync() {
  flush();
  const disk_wait::Call call("fsync", state_->path);
  int result;
  do {
    result = file_system().fsync(state_->fd);
  } while (result != 0 && errno == EINTR);
  if (result != 0) state_->fail("fsync");
}

void FileWriter::close() {
  if (state_->fd < 0) return;
  flush();
  // Linux closes the descriptor even when close() reports EINTR: never called twice.
  const int result = file_system().close(std::exchange(state_->fd, -1));
  if (result != 0 && errno != EINTR) state_->fail("close");
}

uint64_t FileWriter::bytes_written() const {
  return state_->written;
}

DirectoryLock::DirectoryLock(const std::string& directory) {
  const std::string path = join_path(directory, ".lock");
  fd_ = open_retrying(path, O_RDWR | O_CREAT);
  if (fd_ < 0) throw ResourceError("{}: cannot open: {}", path, std::strerror(errno));
  int locked;
  do {
    locked = file_system().flock(fd_, LOCK_EX | LOCK_NB);
  } while (locked != 0 && errno == EINTR);
  if (locked != 0) {
    const int error = errno;
    std::array<char, 512> owner{};
    const ssize_t count = file_system().pread(fd_, owner.data(), owner.size() - 1, 0);
    file_system().close(std::exchange(fd_, -1));
    if (error != EWOULDBLOCK) {
      throw ResourceError("{}: cannot lock: {}", path, std::strerror(error));
    }
    std::string who(owner.data(), count > 0 ? static_cast<size_t>(count) : 0);
    while (!who.empty() && who.back() == '\n') who.pop_back();
    throw UsageError(
        "{}: another train_sft works in this directory ({}); wait for it, stop it, or "
        "choose another --out_dir",
        directory, who.empty() ? "unknown process" : who);
  }
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  std::array<char, 32> when{};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::strftime(when.data(), when.size(), "%Y-%m-%d %H:%M:%S", &local);
  const std::string text =
      fmt::format("pid {} on {} since {}\n", ::getpid(), host.data(), when.data());
  // The text only helps people; the lock is the flock.
  if (file_system().truncate(path, 0) == 0) write_fully(fd_, text.data(), text.size());
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) file_system().close(fd_);
}

}  // namespace train_sft

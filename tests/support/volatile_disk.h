// A file system in memory that keeps only what was synced when its power goes out, and that can
// fail any one of its operations.
//
// The model: a file's bytes are durable after fsync of the file, a name after fsync of the folder
// that holds it, and of that folder's name in turn. After a power cut
//   Loss::all_unsynced  brings back exactly what was synced, each folder for itself: no file system
//                       loses more;
//   Loss::some          is a journalling file system in the middle of its work: names change in the
//                       order in which they were changed and some of the latest changes are lost;
//                       bytes not synced are there, missing, cut short or zeros.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "train_sft/base/file_system.h"

namespace train_sft {

class VolatileDisk : public FileSystem {
 public:
  VolatileDisk();

  // -- faults. Operations are those that change the disk or make a change durable, counted from 0.
  enum class Operation { create, write, fsync, rename, unlink, mkdir, rmdir, symlink, truncate };
  struct Call {
    int64_t number;
    Operation operation;
    std::string path;
  };
  struct Fault {
    int error = 0;              // errno; 0: none
    bool is_short = false;      // a write takes half of its bytes (at least one)
    bool does_nothing = false;  // reports success all the same: a lying fsync
  };
  // Asked before each operation; the operation's path is the name a file was opened by.
  std::function<Fault(const Call&)> fault;
  // The power goes out before operation `number`: it and everything after fails until restart().
  void cut_power_before(int64_t number) { cut_before_ = number; }
  enum class Loss { all_unsynced, some };
  // What a machine finds that starts again; `seed` chooses what Loss::some loses.
  void restart(Loss loss, uint64_t seed = 0);
  bool power_is_out() const { return power_is_out_; }
  int64_t operations() const { return operations_; }
  void count_from_zero() { operations_ = 0; }
  uint64_t free_bytes = uint64_t{1} << 40;
  std::map<std::string, std::string> contents() const;  // of all files, by path

  // -- FileSystem
  int open(const std::string& path, int flags, mode_t mode) override;
  ssize_t read(int fd, void* bytes, size_t count) override;
  ssize_t pread(int fd, void* bytes, size_t count, uint64_t offset) override;
  ssize_t write(int fd, const void* bytes, size_t count) override;
  int fsync(int fd) override;
  int close(int fd) override;
  int rename(const std::string& from, const std::string& to) override;
  int unlink(const std::string& path) override;
  int mkdir(const std::string& path, mode_t mode) override;
  int rmdir(const std::string& path) override;
  int symlink(const std::string& target, const std::string& link) override;
  ssize_t readlink(const std::string& path, char* buffer, size_t count) override;
  int stat(const std::string& path, struct ::stat& status) override;
  int lstat(const std::string& path, struct ::stat& status) override;
  int fstat(int fd, struct ::stat& status) override;
  int list(const std::string& path, std::vector<std::string>& names) override;
  int truncate(const std::string& path, uint64_t bytes) override;
  void* mmap(int fd, size_t bytes) override;
  int munmap(void* address, size_t bytes) override;
  int flock(int fd, int operation) override;
  int statvfs(const std::string& path, struct ::statvfs& status) override;

 private:
  struct Node;
  using NodePtr = std::shared_ptr<Node>;
  using Names = std::map<std::string, NodePtr>;
  enum class Kind { file, folder, link };
  struct Node {
    Kind kind;
    std::string bytes, synced_bytes;  // of a file; a link's target
    size_t untouched = 0;             // bytes at the front not written since they were synced
    Names names, synced_names;        // of a folder
    bool locked = false;
  };
  struct Open {
    NodePtr node;
    std::string path;
    size_t at = 0;
    bool append = false, holds_lock = false;
  };
  // A change of names in one folder: what each name meant before.
  struct Change {
    NodePtr folder;
    std::vector<std::pair<std::string, NodePtr>> before;
  };

  NodePtr find(const std::string& path, bool follow_last, int depth = 0) const;
  // The folder that holds a path's last name; null with errno set.
  NodePtr folder_of(const std::string& path, std::string& name) const;
  bool begin(Operation operation, const std::string& path, Fault& out);
  void change(const NodePtr& folder, const std::vector<std::pair<std::string, NodePtr>>& after);
  void settle(const NodePtr& node, const std::function<void(Node&)>& settle_bytes,
              std::set<const Node*>& seen);
  void fill(const Node& node, struct ::stat& status) const;

  mutable std::recursive_mutex mutex_;
  NodePtr root_;
  std::map<int, Open> open_;
  std::vector<Change> journal_;  // not yet known to be durable
  std::map<void*, std::unique_ptr<char[]>> maps_;  // of exactly the file's size
  int next_fd_ = 1'000'000;
  int64_t operations_ = 0, cut_before_ = -1;
  bool power_is_out_ = false;
};

}  // namespace train_sft

#include "support/volatile_disk.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace train_sft {
namespace {

std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part == ".." && !parts.empty()) parts.pop_back();
    if (!part.empty() && part != "." && part != "..") parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

std::string joined(const std::vector<std::string>& parts, size_t count) {
  std::string path;
  for (size_t i = 0; i < count; ++i) path += "/" + parts[i];
  return path.empty() ? "/" : path;
}

int failed(int error) {
  errno = error;
  return -1;
}

}  // namespace

VolatileDisk::VolatileDisk()
    : root_(std::make_shared<Node>(Node{Kind::folder, {}, {}, 0, {}, {}})) {}

VolatileDisk::NodePtr VolatileDisk::find(const std::string& path, bool follow_last,
                                         int depth) const {
  if (depth > 16) return errno = ELOOP, nullptr;
  const auto parts = parts_of(path);
  NodePtr node = root_;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (node->kind != Kind::folder) return errno = ENOTDIR, nullptr;
    const auto found = node->names.find(parts[i]);
    if (found == node->names.end()) return errno = ENOENT, nullptr;
    node = found->second;
    if (node->kind == Kind::link && (follow_last || i + 1 < parts.size())) {
      const std::string target =
          node->bytes.starts_with('/') ? node->bytes : joined(parts, i) + "/" + node->bytes;
      node = find(target, true, depth + 1);
      if (!node) return nullptr;
    }
  }
  return node;
}

VolatileDisk::NodePtr VolatileDisk::folder_of(const std::string& path, std::string& name) const {
  const auto parts = parts_of(path);
  if (parts.empty()) return errno = EINVAL, nullptr;
  name = parts.back();
  NodePtr folder = find(joined(parts, parts.size() - 1), true);
  if (folder && folder->kind != Kind::folder) return errno = ENOTDIR, nullptr;
  return folder;
}

bool VolatileDisk::begin(Operation operation, const std::string& path, Fault& out) {
  const int64_t number = operations_++;
  if (cut_before_ >= 0 && number >= cut_before_) power_is_out_ = true;
  if (power_is_out_) return errno = EIO, false;
  out = fault ? fault({number, operation, path}) : Fault{};
  if (out.error == 0) return true;
  errno = out.error;
  return false;
}

void VolatileDisk::change(const NodePtr& folder,
                          const std::vector<std::pair<std::string, NodePtr>>& after) {
  Change change{folder, {}};
  for (const auto& [name, node] : after) {
    const auto found = folder->names.find(name);
    change.before.emplace_back(name, found == folder->names.end() ? nullptr : found->second);
    if (node)
      folder->names[name] = node;
    else
      folder->names.erase(name);
  }
  journal_.push_back(std::move(change));
}

// Files get the bytes that are left of them; then everything there is durable.
void VolatileDisk::settle(const NodePtr& node, const std::function<void(Node&)>& settle_bytes,
                          std::set<const Node*>& seen) {
  if (!seen.insert(node.get()).second) return;
  if (node->kind == Kind::file) settle_bytes(*node);
  node->synced_names = node->names;
  for (const auto& [name, child] : node->names) settle(child, settle_bytes, seen);
}

void VolatileDisk::restart(Loss loss, uint64_t seed) {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 chance(seed);
  if (loss == Loss::some) {
    const size_t kept = chance() % (journal_.size() + 1);
    for (; journal_.size() > kept; journal_.pop_back())
      for (const auto& [name, node] : journal_.back().before) {
        auto& names = journal_.back().folder->names;
        if (node)
          names[name] = node;
        else
          names.erase(name);
      }
  } else {
    const std::function<void(Node&)> roll_back = [&](Node& folder) {
      folder.names = folder.synced_names;
      for (const auto& [name, child] : folder.names)
        if (child->kind == Kind::folder) roll_back(*child);
    };
    roll_back(*root_);
  }
  const auto settle_bytes = [&](Node& file) {
    if (file.bytes != file.synced_bytes) {
      const uint64_t fate = loss == Loss::some ? chance() % 4 : 0;
      if (fate == 0) file.bytes = file.synced_bytes;
      const size_t safe = std::min(file.untouched, file.bytes.size());
      if (fate == 1) file.bytes.resize(safe + chance() % (file.bytes.size() - safe + 1));
      if (fate == 2)
        std::fill(file.bytes.begin() + static_cast<ptrdiff_t>(safe), file.bytes.end(), '\0');
    }
    file.synced_bytes = file.bytes;
    file.untouched = file.bytes.size();
    file.locked = false;
  };
  std::set<const Node*> seen;
  settle(root_, settle_bytes, seen);
  journal_.clear();
  open_.clear();
  power_is_out_ = false;
  cut_before_ = -1;
}

std::map<std::string, std::string> VolatileDisk::contents() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::string> all;
  const std::function<void(const Node&, const std::string&)> visit = [&](const Node& node,
                                                                         const std::string& path) {
    if (node.kind == Kind::file) all[path] = node.bytes;
    for (const auto& [name, child] : node.names) visit(*child, path + "/" + name);
  };
  visit(*root_, "");
  return all;
}

int VolatileDisk::open(const std::string& path, int flags, mode_t) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_) return failed(EIO);
  const int writing = flags & (O_WRONLY | O_RDWR);
  NodePtr node = find(path, true);
  const bool creates = !node && (flags & O_CREAT) != 0 && errno == ENOENT;
  if (!node && !creates) return -1;
  if (node && node->kind == Kind::folder && writing) return failed(EISDIR);
  if (node && node->kind != Kind::folder && (flags & O_DIRECTORY)) return failed(ENOTDIR);
  const bool empties = node && (flags & O_TRUNC) != 0 && !node->bytes.empty();
  if (creates || empties) {
    Fault fault_now;
    if (!begin(Operation::create, path, fault_now)) return -1;
  }
  if (creates) {
    std::string name;
    const NodePtr folder = folder_of(path, name);
    if (!folder) return -1;
    node = std::make_shared<Node>(Node{Kind::file, {}, {}, 0, {}, {}});
    change(folder, {{name, node}});
  }
  if (empties) {
    node->bytes.clear();
    node->untouched = 0;
  }
  open_[next_fd_] = {node, path, 0, (flags & O_APPEND) != 0, false};
  return next_fd_++;
}

ssize_t VolatileDisk::read(int fd, void* bytes, size_t count) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end()) return failed(power_is_out_ ? EIO : EBADF);
  const ssize_t taken = pread(fd, bytes, count, found->second.at);
  if (taken > 0) found->second.at += static_cast<size_t>(taken);
  return taken;
}

ssize_t VolatileDisk::pread(int fd, void* bytes, size_t count, uint64_t offset) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end() || power_is_out_) return failed(power_is_out_ ? EIO : EBADF);
  const std::string& all = found->second.node->bytes;
  if (offset >= all.size()) return 0;
  const size_t taken = std::min(count, all.size() - static_cast<size_t>(offset));
  std::memcpy(bytes, all.data() + offset, taken);
  return static_cast<ssize_t>(taken);
}

ssize_t VolatileDisk::write(int fd, const void* bytes, size_t count) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end()) return failed(power_is_out_ ? EIO : EBADF);
  Open& file = found->second;
  if (count == 0) return 0;
  Fault fault_now;
  if (!begin(Operation::write, file.path, fault_now)) return -1;
  const size_t taken = fault_now.is_short ? std::max<size_t>(1, count / 2) : count;
  std::string& all = file.node->bytes;
  if (file.append) file.at = all.size();
  file.node->untouched = std::min(file.node->untouched, file.at);
  if (all.size() < file.at + taken) all.resize(file.at + taken);
  std::memcpy(all.data() + file.at, bytes, taken);
  file.at += taken;
  return static_cast<ssize_t>(taken);
}

int VolatileDisk::fsync(int fd) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end()) return failed(power_is_out_ ? EIO : EBADF);
  Fault fault_now;
  if (!begin(Operation::fsync, found->second.path, fault_now)) return -1;
  if (fault_now.does_nothing) return 0;
  Node& node = *found->second.node;
  if (node.kind == Kind::folder) {
    node.synced_names = node.names;
    // A journal is written in order: what was changed before is durable with it.
    const auto last = std::find_if(journal_.rbegin(), journal_.rend(), [&](const Change& change) {
      return change.folder.get() == &node;
    });
    journal_.erase(journal_.begin(), last.base());
  } else {
    node.synced_bytes = node.bytes;
    node.untouched = node.bytes.size();
  }
  return 0;
}

int VolatileDisk::close(int fd) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end()) return failed(EBADF);
  if (found->second.holds_lock) found->second.node->locked = false;
  open_.erase(found);
  return 0;
}

int VolatileDisk::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  Fault fault_now;
  if (!begin(Operation::rename, to, fault_now)) return -1;
  std::string old_name, new_name;
  const NodePtr folder = folder_of(from, old_name);
  const NodePtr target = folder ? folder_of(to, new_name) : nullptr;
  if (!target) return -1;
  if (folder != target) return failed(EXDEV);  // the program moves nothing between folders
  const auto found = folder->names.find(old_name);
  if (found == folder->names.end()) return failed(ENOENT);
  const NodePtr node = found->second;
  const auto there = folder->names.find(new_name);
  if (there != folder->names.end()) {
    const bool onto_folder = there->second->kind == Kind::folder;
    if (onto_folder && node->kind != Kind::folder) return failed(EISDIR);
    if (!onto_folder && node->kind == Kind::folder) return failed(ENOTDIR);
    if (onto_folder && !there->second->names.empty()) return failed(ENOTEMPTY);
  }
  change(folder, {{old_name, nullptr}, {new_name, node}});
  return 0;
}

int VolatileDisk::unlink(const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (!power_is_out_ && !find(path, false)) return -1;  // changes nothing: not counted
  Fault fault_now;
  if (!begin(Operation::unlink, path, fault_now)) return -1;
  std::string name;
  const NodePtr folder = folder_of(path, name);
  if (folder->names[name]->kind == Kind::folder) return failed(EISDIR);
  change(folder, {{name, nullptr}});
  return 0;
}

int VolatileDisk::mkdir(const std::string& path, mode_t) {
  const std::lock_guard lock(mutex_);
  if (!power_is_out_ && find(path, false)) return failed(EEXIST);
  Fault fault_now;
  if (!begin(Operation::mkdir, path, fault_now)) return -1;
  std::string name;
  const NodePtr folder = folder_of(path, name);
  if (!folder) return -1;
  change(folder, {{name, std::make_shared<Node>(Node{Kind::folder, {}, {}, 0, {}, {}})}});
  return 0;
}

int VolatileDisk::rmdir(const std::string& path) {
  const std::lock_guard lock(mutex_);
  Fault fault_now;
  if (!begin(Operation::rmdir, path, fault_now)) return -1;
  const NodePtr node = find(path, false);
  if (!node) return -1;
  if (!node->names.empty()) return failed(ENOTEMPTY);
  std::string name;
  change(folder_of(path, name), {{parts_of(path).back(), nullptr}});
  return 0;
}

int VolatileDisk::symlink(const std::string& target, const std::string& link) {
  const std::lock_guard lock(mutex_);
  if (!power_is_out_ && find(link, false)) return failed(EEXIST);
  Fault fault_now;
  if (!begin(Operation::symlink, link, fault_now)) return -1;
  std::string name;
  const NodePtr folder = folder_of(link, name);
  if (!folder) return -1;
  change(folder, {{name, std::make_shared<Node>(Node{Kind::link, target, target, 0, {}, {}})}});
  return 0;
}

ssize_t VolatileDisk::readlink(const std::string& path, char* buffer, size_t count) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_) return failed(EIO);
  const NodePtr node = find(path, false);
  if (!node) return -1;
  if (node->kind != Kind::link) return failed(EINVAL);
  const size_t taken = std::min(count, node->bytes.size());
  std::memcpy(buffer, node->bytes.data(), taken);
  return static_cast<ssize_t>(taken);
}

void VolatileDisk::fill(const Node& node, struct ::stat& status) const {
  status = {};
  status.st_mode = node.kind == Kind::folder ? S_IFDIR | 0755u
                   : node.kind == Kind::link ? S_IFLNK | 0777u
                                             : S_IFREG | 0644u;
  status.st_size = static_cast<off_t>(node.bytes.size());
}

int VolatileDisk::stat(const std::string& path, struct ::stat& status) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_) return failed(EIO);
  const NodePtr node = find(path, true);
  if (!node) return -1;
  fill(*node, status);
  return 0;
}

int VolatileDisk::lstat(const std::string& path, struct ::stat& status) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_) return failed(EIO);
  const NodePtr node = find(path, false);
  if (!node) return -1;
  fill(*node, status);
  return 0;
}

int VolatileDisk::fstat(int fd, struct ::stat& status) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end() || power_is_out_) return failed(power_is_out_ ? EIO : EBADF);
  fill(*found->second.node, status);
  return 0;
}

int VolatileDisk::list(const std::string& path, std::vector<std::string>& names) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_) return failed(EIO);
  const NodePtr node = find(path, true);
  if (!node) return -1;
  if (node->kind != Kind::folder) return failed(ENOTDIR);
  names.clear();
  for (const auto& [name, child] : node->names) names.push_back(name);
  return 0;
}

int VolatileDisk::truncate(const std::string& path, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  Fault fault_now;
  if (!begin(Operation::truncate, path, fault_now)) return -1;
  const NodePtr node = find(path, true);
  if (!node) return -1;
  node->untouched = std::min<size_t>(node->untouched, bytes);
  node->bytes.resize(bytes);
  return 0;
}

void* VolatileDisk::mmap(int fd, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end() || power_is_out_) return errno = EIO, nullptr;
  auto copy = std::make_unique<char[]>(bytes);
  const std::string& all = found->second.node->bytes;
  std::copy_n(all.data(), std::min(bytes, all.size()), copy.get());
  void* address = copy.get();
  maps_[address] = std::move(copy);
  return address;
}

int VolatileDisk::munmap(void* address, size_t) {
  const std::lock_guard lock(mutex_);
  maps_.erase(address);
  return 0;
}

int VolatileDisk::flock(int fd, int operation) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(fd);
  if (found == open_.end() || power_is_out_) return failed(power_is_out_ ? EIO : EBADF);
  if ((operation & LOCK_EX) != 0) {
    if (found->second.node->locked) return failed(EWOULDBLOCK);
    found->second.node->locked = found->second.holds_lock = true;
  }
  return 0;
}

int VolatileDisk::statvfs(const std::string& path, struct ::statvfs& status) {
  const std::lock_guard lock(mutex_);
  if (power_is_out_ || !find(path, true)) return failed(power_is_out_ ? EIO : ENOENT);
  status = {};
  status.f_frsize = 1;
  status.f_bavail = free_bytes;
  return 0;
}

}  // namespace train_sft

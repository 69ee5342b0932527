#include "train_sft/base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace train_sft {
namespace {

// Files of the kernel, not of the user: read beside the FileSystem seam on purpose, so that a fault
// injector counts only calls that matter. "" when there is no such file.
std::string kernel_file(const std::string& path) {
  std::ifstream stream(path);
  std::stringstream text;
  if (stream) text << stream.rdbuf();
  return text.str();
}

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

uint64_t number_or(const std::string& text, uint64_t otherwise) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return otherwise;  // "max", missing file
  return std::stoull(text);
}

// The number after "name" at the start of a line ("VmHWM:   1234 kB").
uint64_t line_value(const std::string& text, const std::string& name, uint64_t otherwise) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name, 0) != 0) continue;
    const size_t digit = line.find_first_of("0123456789", name.size());
    if (digit != std::string::npos) return number_or(line.substr(digit), otherwise);
  }
  return otherwise;
}

uint64_t room(const std::string& folder, const char* limit_file, const char* usage_file) {
  const uint64_t limit = number_or(kernel_file(folder + limit_file), kUnlimited);
  if (limit == kUnlimited) return kUnlimited;
  const uint64_t usage = number_or(kernel_file(folder + usage_file), 0);
  // Cached file pages count as usage but are given back under pressure.
  const uint64_t cache = line_value(kernel_file(folder + "/memory.stat"), "inactive_file ", 0);
  const uint64_t used = usage > cache ? usage - cache : 0;
  return limit > used ? limit - used : 0;
}

uint64_t cgroup_room() {
  uint64_t least =
      room("/sys/fs/cgroup/memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes");
  std::string path;  // version 2: "0::/a/b"; every level up to the root may set a limit
  std::istringstream lines(kernel_file("/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  while (true) {
    least = std::min(least, room("/sys/fs/cgroup" + path, "/memory.max", "/memory.current"));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) break;
    path.resize(slash);
  }
  return least;
}

// What `ulimit -v` leaves this process.
uint64_t address_space_room() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  const uint64_t used = line_value(kernel_file("/proc/self/status"), "VmSize:", 0) * 1024;
  return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

}  // namespace

uint64_t resident_bytes() {
  std::istringstream fields(kernel_file("/proc/self/statm"));
  uint64_t total = 0, resident = 0;
  fields >> total >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t anonymous_bytes() {
  return line_value(kernel_file("/proc/self/status"), "RssAnon:", 0) * 1024;
}

uint64_t peak_resident_bytes() {
  return std::max(line_value(kernel_file("/proc/self/status"), "VmHWM:", 0) * 1024,
                  resident_bytes());
}

MemoryBlock whole_pages(void* begin, uint64_t bytes) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uint64_t before = (page - address % page) % page;
  if (bytes < before + page) return {static_cast<char*>(begin), 0};
  return {static_cast<char*>(begin) + before, (bytes - before) / page * page};
}

// Memory that others share, or that a file backs, would keep its contents: seen by the first byte.
bool give_back(MemoryBlock pages) {
  if (pages.bytes == 0) return false;
  volatile char* first = pages.begin;
  *first = 1;
  if (::madvise(pages.begin, pages.bytes, MADV_DONTNEED) != 0 || *first != 0) return false;
  // They come back by 2 MiB where the system can: page by page would cost a tenth of a step.
  ::madvise(pages.begin, pages.bytes, MADV_HUGEPAGE);
  return true;
}

// The page before what is given to the caller holds the mapping's limits.
void* allocate_zero_pages(uint64_t bytes) {
  // Of a smaller block parts that are never touched would take more than its pages cost.
  constexpr uint64_t kLarge = uint64_t{2} << 20, kWorthwhile = 32 * kLarge;
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t alignment = bytes < kWorthwhile ? page : kLarge;
  const uint64_t whole = bytes + page + alignment;
  if (whole < bytes) return nullptr;
  void* mapping =
      ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  auto* const first = static_cast<char*>(mapping);
  const uint64_t over = (reinterpret_cast<uintptr_t>(first) + page) % alignment;
  char* const begin = first + page + (over == 0 ? 0 : alignment - over);
  if (alignment == kLarge) ::madvise(begin, bytes, MADV_HUGEPAGE);
  reinterpret_cast<MemoryBlock*>(begin)[-1] = {first, whole};
  return begin;
}

void free_pages(void* begin) {
  const MemoryBlock mapping = static_cast<MemoryBlock*>(begin)[-1];
  ::munmap(mapping.begin, mapping.bytes);
}

uint64_t available_memory_bytes() {
  const uint64_t machine = line_value(kernel_file("/proc/meminfo"), "MemAvailable:", 0) * 1024;
  return std::min({machine, cgroup_room(), address_space_room()});
}

}  // namespace train_sft

#include "train_sft/base/disk_wait.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/without_signals.h"
#include "train_sft/base/log.h"

namespace train_sft::disk_wait {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::minutes kMostBetween{10};

struct Entry {
  std::string what;  // "fsync of PATH"
  std::time_t began = 0;
  Clock::time_point since, next;  // next: when it is to be said
  bool said = false;
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<uint64_t, Entry> calls;  // by their order
  uint64_t count = 0;
  Clock::duration patience = kPatience;
  bool has_speaker = false;
};

// Never destroyed: a thread that hangs for ever is among those that use it.
State& state() {
  static auto* const all = new State;
  return *all;
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string description(const Entry& entry) {
  std::tm local{};
  ::localtime_r(&entry.began, &local);
  std::array<char, 32> when{};
  std::strftime(when.data(), when.size(), "%Y-%m-%d %H:%M:%S", &local);
  return fmt::format("{} since {}", entry.what, when.data());
}

// What is to be said now, of the calls under way.
std::vector<std::string> due(State& all) {
  std::vector<std::string> lines;
  const auto now = Clock::now();
  for (auto& [number, entry] : all.calls) {
    if (entry.next > now) continue;
    lines.push_back(
        fmt::format("the disk does not answer: {}, {:.0f} s; whatever needs it waits until it does "
                    "(Ctrl-C twice ends the program at once)",
                    description(entry), seconds_since(entry.since)));
    entry.said = true;
    entry.next = now + std::min<Clock::duration>(now - entry.since, kMostBetween);
  }
  return lines;
}

void speak() {
  State& all = state();
  std::unique_lock lock(all.mutex);
  while (true) {
    const std::vector<std::string> lines = due(all);
    if (!lines.empty()) {
      lock.unlock();  // the log's own file may be on that disk
      for (const std::string& line : lines) log::warning("{}", line);
      lock.lock();
      continue;
    }
    auto next = Clock::time_point::max();
    for (const auto& [number, entry] : all.calls) next = std::min(next, entry.next);
    if (all.calls.empty())
      all.changed.wait(lock);
    else
      all.changed.wait_until(lock, next);
  }
}

}  // namespace

void set_patience(std::chrono::milliseconds patience) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  all.patience = patience;
}

Call::Call(const char* call, const std::string& path) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  const auto now = Clock::now();
  number_ = all.count++;
  all.calls[number_] = {.what = fmt::format("{} of {}", call, path),
                        .began = std::time(nullptr),
                        .since = now,
                        .next = now + all.patience};
  if (!all.has_speaker) start_without_signals(speak).detach();
  all.has_speaker = true;
  if (all.calls.size() == 1) all.changed.notify_one();  // else it wakes in time
}

Call::~Call() {
  State& all = state();
  Entry ended;
  {
    const std::lock_guard lock(all.mutex);
    const auto place = all.calls.find(number_);
    ended = std::move(place->second);
    all.calls.erase(place);
  }
  if (ended.said)
    log::warning("the disk answers again: {} took {:.0f} s", ended.what,
                 seconds_since(ended.since));
}

std::string overdue() {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  for (const auto& [number, entry] : all.calls)
    if (entry.said) return description(entry);
  return "";
}

}  // namespace train_sft::disk_wait

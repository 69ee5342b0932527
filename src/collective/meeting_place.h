// Where the ranks of a run meet (c10d's TCPStore), leave word how far they have come, and show that
// they live.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "train_sft/dist/environment.h"

namespace train_sft {

// What a message ends with when the meeting place itself is silent.
inline constexpr const char* kNoMeetingPlace =
    "; no sign of life from the meeting place, which rank 0 (or torchrun's agent) keeps";

// What a rank lets the others know, twice a second.
struct LifeSigns {
  uint64_t beats = 0;  // as long as its process is not stopped
  uint64_t work = 0;   // grows with what it has done, and in long work with time
  bool waits = false;  // in a collective, for others
  std::string disk{};  // disk_wait::overdue()
};

// Any of these may never return: the process that keeps the store may be the one that hangs.
class MeetingPlace {
 public:
  MeetingPlace(const ProcessPlace& place, std::chrono::milliseconds timeout);

  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }
  int own() const { return own_; }

  void arrived(uint64_t calls) { set(key("arrived", own_), std::to_string(calls)); }
  void show(const LifeSigns& signs);
  void leave() { set(key("left", own_), "1"); }
  std::optional<LifeSigns> signs_of(int rank);  // none: it has not shown any
  // What rank 0 has found out about the others; none: nothing yet.
  void pronounce(const std::string& verdict) { set("train_sft/verdict", verdict); }
  std::optional<std::string> verdict() { return text("train_sft/verdict"); }

  // Who of the others has stopped beating, or else who has not come to this rank's call.
  std::string missing(int size, uint64_t calls);

 private:
  static std::string key(const char* what, int rank);
  void set(const std::string& name, const std::string& text);
  std::optional<std::string> text(const std::string& name);  // none: it was never set
  std::optional<uint64_t> number(const std::string& name);

  int own_;
  c10::intrusive_ptr<c10d::Store> store_;
};

// A thread that shows every half second that this process is not stopped, and what its training
// thread does. Nobody waits for it when it hangs.
class Heart {
 public:
  explicit Heart(std::shared_ptr<MeetingPlace> meeting);
  ~Heart();
  Heart(const Heart&) = delete;
  Heart& operator=(const Heart&) = delete;

  // Of the training thread.
  void worked();
  void long_work(bool begins);
  void waits(bool begins);

 private:
  struct State;
  static void run(State& state, MeetingPlace& meeting);
  std::shared_ptr<State> state_;
};

// Watches, while this rank waits for others, whether they live and are at work. Rank 0 looks at
// every rank and tells the rest, which look at rank 0: some requests a second, however many ranks
// there are.
class Lookout {
 public:
  // patience: how long a rank may give no sign of life or, unless it waits itself, do nothing; and
  // how long all may wait for each other.
  Lookout(std::shared_ptr<MeetingPlace> meeting, int size, std::chrono::milliseconds patience);
  ~Lookout();
  Lookout(const Lookout&) = delete;
  Lookout& operator=(const Lookout&) = delete;

  // What is wrong, and with whom, as a message ends; none: nothing.
  std::optional<std::string> verdict() const;
  // Whose disk is waited for: "rank 1 (fsync of … since …)". Empty: nobody's.
  std::string disks() const;

 private:
  struct State;
  static void run(State& state, MeetingPlace& meeting);
  std::shared_ptr<State> state_;
};

}  // namespace train_sft

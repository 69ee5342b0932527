// Where the ranks of a run meet (c10d's TCPStore), leave word how far they have come, and show that
// they live.
#pragma once

#include <c10/util/intrusive_ptr.h>

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

// Any of these may never return: the process that keeps the store may be the one that hangs.
class MeetingPlace {
 public:
  MeetingPlace(const ProcessPlace& place, std::chrono::milliseconds timeout);

  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }
  int own() const { return own_; }

  void arrived(uint64_t calls) { set(key("arrived", own_), std::to_string(calls)); }
  void beat(uint64_t count) { set(key("beat", own_), std::to_string(count)); }
  void leave() { set(key("left", own_), "1"); }
  // How often a rank has shown that it lives; none: never.
  std::optional<uint64_t> beats_of(int rank) { return number(key("beat", rank)); }
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

// A thread that says every half second that this process is not stopped. Nobody waits for it when
// it hangs.
class Heart {
 public:
  explicit Heart(std::shared_ptr<MeetingPlace> meeting);
  ~Heart();
  Heart(const Heart&) = delete;
  Heart& operator=(const Heart&) = delete;

 private:
  struct State;
  static void run(State& state, MeetingPlace& meeting);
  std::shared_ptr<State> state_;
};

// Watches, while this rank waits for others that have long work to do, whether they live. Rank 0
// looks at every rank and tells the rest, which look at rank 0: some requests a second, however
// many ranks there are.
class Lookout {
 public:
  // patience: how long a rank may give no sign of life.
  Lookout(std::shared_ptr<MeetingPlace> meeting, int size, std::chrono::milliseconds patience);
  ~Lookout();
  Lookout(const Lookout&) = delete;
  Lookout& operator=(const Lookout&) = delete;

  // Who is silent, as a message ends; none: nobody.
  std::optional<std::string> silent() const;

 private:
  struct State;
  static void run(State& state, MeetingPlace& meeting);
  std::shared_ptr<State> state_;
};

}  // namespace train_sft

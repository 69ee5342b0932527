#ifdef TRAIN_SFT_GLOO

#include "collective/meeting_place.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/without_signals.h"
#include "train_sft/base/disk_wait.h"

namespace train_sft {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kBeat{500};
constexpr milliseconds kLook = 4 * kBeat;

}  // namespace

MeetingPlace::MeetingPlace(const ProcessPlace& place, milliseconds timeout) : own_(place.rank) {
  // torchrun's agent keeps a store at the address; each restart has its own keys in it.
  const auto agent = environment_variable("TORCHELASTIC_USE_AGENT_STORE");
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(place.master_port);
  options.isServer = place.rank == 0 && agent != "True";
  options.waitWorkers = false;
  options.timeout = timeout;
  store_ = c10::make_intrusive<c10d::TCPStore>(place.master_addr, options);
  if (agent == "True")
    store_ = c10::make_intrusive<c10d::PrefixStore>(
        fmt::format("/worker/attempt_{}", place.restart_count), store_);
}

void MeetingPlace::show(const LifeSigns& signs) {
  set(key("signs", own_),
      fmt::format("{} {} {} {}", signs.beats, signs.work, signs.waits ? 1 : 0, signs.disk));
}

std::optional<LifeSigns> MeetingPlace::signs_of(int rank) {
  const auto said = text(key("signs", rank));
  if (!said) return std::nullopt;
  LifeSigns signs;
  const char* const end = said->data() + said->size();
  const auto beats = std::from_chars(said->data(), end, signs.beats);
  const auto work = std::from_chars(std::min(beats.ptr + 1, end), end, signs.work);
  const std::string_view rest(work.ptr, end);  // " 1 fsync of …"
  signs.waits = rest.starts_with(" 1");
  if (rest.size() > 3) signs.disk = rest.substr(3);
  return signs;
}

std::string MeetingPlace::missing(int size, uint64_t calls) {
  const auto beats_of = [this](int rank) -> std::optional<uint64_t> {
    const auto signs = signs_of(rank);
    return signs ? std::optional(signs->beats) : std::nullopt;
  };
  std::vector<std::optional<uint64_t>> before;
  for (int rank = 0; rank < size; ++rank) before.push_back(beats_of(rank));
  std::this_thread::sleep_for(kLook);
  std::string silent, late;
  for (int rank = 0; rank < size; ++rank) {
    if (rank == own_ || store_->check({key("left", rank)})) continue;
    const auto beats = beats_of(rank);
    const bool lives = beats && beats != before[static_cast<size_t>(rank)];
    if (!lives) silent += fmt::format("{}{}", silent.empty() ? "" : ", ", rank);
    if (number(key("arrived", rank)).value_or(0) < calls)
      late += fmt::format("{}{}", late.empty() ? "" : ", ", rank);
  }
  if (!silent.empty()) return "; no sign of life from rank " + silent;
  return late.empty() ? "" : "; not come to it: rank " + late;
}

std::string MeetingPlace::key(const char* what, int rank) {
  return fmt::format("train_sft/{}/{}", what, rank);
}

void MeetingPlace::set(const std::string& name, const std::string& text) {
  store_->set(name, std::vector<uint8_t>(text.begin(), text.end()));
}

std::optional<std::string> MeetingPlace::text(const std::string& name) {
  if (!store_->check({name})) return std::nullopt;
  const std::vector<uint8_t> bytes = store_->get(name);
  return std::string(bytes.begin(), bytes.end());
}

std::optional<uint64_t> MeetingPlace::number(const std::string& name) {
  const auto said = text(name);
  if (!said) return std::nullopt;
  uint64_t value = 0;
  std::from_chars(said->data(), said->data() + said->size(), value);
  return value;
}

struct Heart::State {
  std::mutex mutex;
  std::condition_variable changed;
  bool leaving = false, gone = false;
  std::atomic<uint64_t> work{0};
  std::atomic<int> long_works{0};
  std::atomic<bool> waits{false};
};

void Heart::worked() {
  ++state_->work;
}
void Heart::long_work(bool begins) {
  ++state_->work;
  state_->long_works += begins ? 1 : -1;
}
void Heart::waits(bool begins) {
  ++state_->work;
  state_->waits = begins;
}

// The first signs are there when the others come.
Heart::Heart(std::shared_ptr<MeetingPlace> meeting) : state_(std::make_shared<State>()) {
  meeting->show({});
  start_without_signals([state = state_, meeting = std::move(meeting)] {
    run(*state, *meeting);
  }).detach();
}

Heart::~Heart() {
  std::unique_lock lock(state_->mutex);
  state_->leaving = true;
  state_->changed.notify_all();
  state_->changed.wait_for(lock, kBeat, [this] { return state_->gone; });
}

void Heart::run(State& state, MeetingPlace& meeting) {
  std::unique_lock lock(state.mutex);
  for (uint64_t count = 1; !state.leaving; ++count) {
    lock.unlock();
    try {
      if (state.long_works > 0 && !state.waits) ++state.work;
      meeting.show({count, state.work, state.waits, disk_wait::overdue()});
    } catch (const std::exception&) {  // nobody is left to hear it; the next collective fails
    }
    lock.lock();
    state.changed.wait_for(lock, kBeat, [&] { return state.leaving; });
  }
  state.gone = true;
  state.changed.notify_all();
}

struct Lookout::State {
  struct Seen {
    std::optional<LifeSigns> signs;
    Clock::time_point lives = Clock::now(), works = Clock::now();
  };

  std::mutex mutex;
  std::condition_variable changed;
  bool leaving = false;
  Clock::duration patience{}, of_store{};
  std::vector<Seen> seen;  // by rank, of those that are looked at
  Clock::time_point answered = Clock::now(), anybody_works = Clock::now();
  std::optional<std::string> said;
  std::string disks;  // slow_disks() of the last look

  // Looks at all of them once.
  std::optional<std::string> look(MeetingPlace& meeting) {
    if (meeting.own() != 0)
      if (auto verdict = meeting.verdict()) return verdict;
    const auto verdict = judge(meeting);
    if (verdict && meeting.own() == 0) {
      meeting.pronounce(*verdict);
      std::this_thread::sleep_for(2 * kLook);  // to be heard: its end may be the store's
    }
    return verdict;
  }

  // Some of those it saw: what is wrong with a file system that all have is not said a thousand
  // times.
  std::string slow_disks(int own) const {
    constexpr size_t kMost = 3;
    std::vector<std::string> slow;
    for (size_t rank = 0; rank < seen.size(); ++rank) {
      const auto& signs = seen[rank].signs;
      if (static_cast<int>(rank) != own && signs && !signs->waits && !signs->disk.empty())
        slow.push_back(fmt::format("rank {} ({})", rank, signs->disk));
    }
    const size_t more = slow.size() > kMost ? slow.size() - kMost : 0;
    slow.resize(slow.size() - more);
    return fmt::format("{}{}", fmt::join(slow, ", "),
                       more > 0 ? fmt::format(" and {} more", more) : "");
  }

 private:
  std::optional<std::string> judge(MeetingPlace& meeting) {
    std::vector<int> silent, idle;
    bool all_wait = meeting.own() == 0;  // the others do not see all
    for (size_t i = 0; i < seen.size(); ++i) {
      const int rank = static_cast<int>(i);
      update(seen[i], meeting.signs_of(rank));
      all_wait = all_wait && seen[i].signs && seen[i].signs->waits;
      if (rank == meeting.own()) continue;
      if (Clock::now() - seen[i].lives >= patience)
        silent.push_back(rank);
      else if (Clock::now() - seen[i].works >= patience)
        idle.push_back(rank);
    }
    if (!silent.empty())
      return fmt::format("it is stopped, or its machine is gone; no sign of life from rank {}",
                         fmt::join(silent, ", "));
    if (!idle.empty())
      return fmt::format("it lives, but has done nothing for so long; not come to it: rank {}",
                         fmt::join(idle, ", "));
    if (all_wait && Clock::now() - anybody_works >= patience)
      return "all ranks have come there; what they send each other does not arrive";
    return std::nullopt;
  }

  // Whoever waits is not the one that is waited for.
  void update(Seen& of, const std::optional<LifeSigns>& signs) {
    const auto now = Clock::now();
    const bool lives = signs && (!of.signs || signs->beats != of.signs->beats);
    const bool works = signs && (!of.signs || signs->work != of.signs->work);
    if (lives) of.lives = now;
    if (works || (signs && signs->waits)) of.works = now;
    if (works) anybody_works = now;
    of.signs = signs;
  }
};

Lookout::Lookout(std::shared_ptr<MeetingPlace> meeting, int size, milliseconds patience)
    : state_(std::make_shared<State>()) {
  state_->patience = std::max(patience, 2 * kLook);
  const auto to_be_heard = meeting->own() == 0 ? 2 * kLook : milliseconds(0);
  state_->of_store = state_->patience + to_be_heard + kLook;
  state_->seen.resize(static_cast<size_t>(meeting->own() == 0 ? size : 1));
  start_without_signals([state = state_, meeting = std::move(meeting)] {
    run(*state, *meeting);
  }).detach();
}

Lookout::~Lookout() {
  const std::lock_guard lock(state_->mutex);
  state_->leaving = true;
  state_->changed.notify_all();
}

std::optional<std::string> Lookout::verdict() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->said) return state_->said;
  const auto waited = Clock::now() - state_->answered;
  if (waited >= state_->of_store)
    return fmt::format("it is stopped, or its machine is gone{}", kNoMeetingPlace);
  return std::nullopt;
}

std::string Lookout::disks() const {
  const std::lock_guard lock(state_->mutex);
  return state_->disks;
}

void Lookout::run(State& state, MeetingPlace& meeting) {
  std::unique_lock lock(state.mutex);
  while (!state.leaving && !state.said) {
    lock.unlock();
    std::optional<std::string> said;
    bool answered = true;
    try {
      said = state.look(meeting);
    } catch (const std::exception&) {  // the store is gone
      answered = false;
    }
    lock.lock();
    if (answered) {
      state.answered = Clock::now();
      state.disks = state.slow_disks(meeting.own());
    }
    state.said = std::move(said);
    state.changed.wait_for(lock, kLook, [&] { return state.leaving; });
  }
}

}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO

#ifdef TRAIN_SFT_GLOO

#include "collective/meeting_place.h"

#include <fmt/format.h>

#include <charconv>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "collective/without_signals.h"

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

std::string MeetingPlace::missing(int size, uint64_t calls) {
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
};

// The first beat is there when the others come.
Heart::Heart(std::shared_ptr<MeetingPlace> meeting) : state_(std::make_shared<State>()) {
  meeting->beat(0);
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
      meeting.beat(count);
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
    std::optional<uint64_t> beats;
    Clock::time_point since = Clock::now();
  };

  std::mutex mutex;
  std::condition_variable changed;
  bool leaving = false;
  Clock::duration patience{}, of_store{};
  std::vector<Seen> seen;  // by rank, of those that are looked at
  Clock::time_point answered = Clock::now();
  std::optional<std::string> said;

  // Looks at all of them once.
  std::optional<std::string> look(MeetingPlace& meeting) {
    if (meeting.own() != 0)
      if (auto verdict = meeting.verdict()) return verdict;
    std::string silent;
    for (size_t rank = 0; rank < seen.size(); ++rank) {
      const auto beats = meeting.beats_of(static_cast<int>(rank));
      if (beats != seen[rank].beats) seen[rank] = {beats, Clock::now()};
      if (Clock::now() - seen[rank].since >= patience)
        silent += fmt::format("{}{}", silent.empty() ? "" : ", ", rank);
    }
    if (silent.empty()) return std::nullopt;
    silent.insert(0, "; no sign of life from rank ");
    if (meeting.own() == 0) {
      meeting.pronounce(silent);
      std::this_thread::sleep_for(2 * kLook);  // to be heard: its end may be the store's
    }
    return silent;
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

std::optional<std::string> Lookout::silent() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->said) return state_->said;
  const auto waited = Clock::now() - state_->answered;
  if (waited >= state_->of_store) return kNoMeetingPlace;
  return std::nullopt;
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
    if (answered) state.answered = Clock::now();
    state.said = std::move(said);
    state.changed.wait_for(lock, kLook, [&] { return state.leaving; });
  }
}

}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO

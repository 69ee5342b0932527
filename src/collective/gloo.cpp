// torch's c10d with Gloo, for processes on CPUs. Gloo's code is inside LibTorch; its headers come
// from Debian's libgloo-dev, which is older, so this file uses no class of Gloo itself and of
// c10d's only what these headers cannot change: factories, constructors, Backend's virtual
// functions. NCCL would be a second ProcessGroup behind the same class.
#include "train_sft/base/error.h"
#include "train_sft/collective/join.h"

#ifdef TRAIN_SFT_GLOO

#include <ATen/ops/empty.h>
#include <c10/util/Logging.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "collective/own_address.h"
#include "collective/watchdog.h"
#include "collective/without_signals.h"

namespace train_sft {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;
using WorkPointer = c10::intrusive_ptr<c10d::Work>;

constexpr seconds kLongWork{24 * 3600};
constexpr seconds kGrace{20};        // of the watchdog beyond c10d's timeout
constexpr seconds kToLeave{60};      // for a process that has failed to end in good order
constexpr seconds kStoreAnswers{5};  // or it is gone
constexpr milliseconds kBeat{500};

// "[/pytorch/.../pair.cc:537] Connection closed by peer [10.0.0.2]:4000" without the place, and
// without the stack trace that LibTorch appends.
std::string short_reason(std::string text) {
  if (const size_t line = text.find('\n'); line != text.npos) text.resize(line);
  if (text.starts_with('[') && text.find("] ") != text.npos) text.erase(0, text.find("] ") + 2);
  if (const size_t hint = text.find(". This may indicate"); hint != text.npos) text.resize(hint);
  return text;
}

// Where ranks meet, leave word how far they have come, and show that they live.
class MeetingPlace {
 public:
  MeetingPlace(const ProcessPlace& place, milliseconds timeout) : own_(place.rank) {
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

  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }

  void arrived(uint64_t calls) { set(key("arrived", own_), calls); }
  void beat(uint64_t count) { set(key("beat", own_), count); }
  void leave() { set(key("left", own_), 1); }

  // Who of the others has stopped beating, or else who has not come to this rank's call. May never
  // return: the process that keeps the store may be the one that hangs.
  std::string missing(int size, uint64_t calls) {
    std::vector<std::optional<uint64_t>> before;
    for (int rank = 0; rank < size; ++rank) before.push_back(get(key("beat", rank)));
    std::this_thread::sleep_for(4 * kBeat);
    std::string silent, late;
    for (int rank = 0; rank < size; ++rank) {
      if (rank == own_ || store_->check({key("left", rank)})) continue;
      const auto beats = get(key("beat", rank));
      const bool lives = beats && beats != before[static_cast<size_t>(rank)];
      if (!lives) silent += fmt::format("{}{}", silent.empty() ? "" : ", ", rank);
      if (get(key("arrived", rank)).value_or(0) < calls)
        late += fmt::format("{}{}", late.empty() ? "" : ", ", rank);
    }
    if (!silent.empty()) return "; no sign of life from rank " + silent;
    return late.empty() ? "" : "; not come to it: rank " + late;
  }

 private:
  static std::string key(const char* what, int rank) {
    return fmt::format("train_sft/{}/{}", what, rank);
  }
  void set(const std::string& name, uint64_t value) {
    const std::string text = std::to_string(value);
    store_->set(name, std::vector<uint8_t>(text.begin(), text.end()));
  }
  // None: it was never set.
  std::optional<uint64_t> get(const std::string& name) {
    if (!store_->check({name})) return std::nullopt;
    const std::vector<uint8_t> bytes = store_->get(name);
    const std::string text(bytes.begin(), bytes.end());
    uint64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  }

  int own_;
  c10::intrusive_ptr<c10d::Store> store_;
};

// A thread that says every half second that this process is not stopped. It may hang when the
// process that keeps the store does: nobody waits for it then.
class Heart {
 public:
  explicit Heart(std::shared_ptr<MeetingPlace> meeting) : state_(std::make_shared<State>()) {
    start_without_signals([state = state_, meeting = std::move(meeting)] {
      run(*state, *meeting);
    }).detach();
  }
  ~Heart() {
    std::unique_lock lock(state_->mutex);
    state_->leaving = true;
    state_->changed.notify_all();
    state_->changed.wait_for(lock, kBeat, [this] { return state_->gone; });
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool leaving = false, gone = false;
  };

  static void run(State& state, MeetingPlace& meeting) {
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

  std::shared_ptr<State> state_;
};

std::shared_ptr<::gloo::transport::Device> device_of(const ProcessPlace& place) {
  using Gloo = c10d::ProcessGroupGloo;
  const auto interface = environment_variable("GLOO_SOCKET_IFNAME");
  if (interface && !interface->empty())
    return Gloo::createDeviceForInterface(interface->substr(0, interface->find(',')));
  const bool one_machine = place.local_world_size == place.world_size;
  return Gloo::createDeviceForHostname(one_machine ? "127.0.0.1"
                                                   : own_address_towards(place.master_addr));
}

constexpr const char* kNoMeetingPlace =
    "; no sign of life from the meeting place, which rank 0 (or torchrun's agent) keeps";

class C10d final : public Collective {
 public:
  C10d(const ProcessPlace& place, milliseconds timeout)
      : Collective(place),
        timeout_(timeout),
        meeting_(std::make_shared<MeetingPlace>(place, timeout)),
        heart_(meeting_) {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(device_of(place));
    group_ =
        c10::make_intrusive<c10d::ProcessGroupGloo>(meeting_->store(), rank(), size(), options);
  }

  std::unique_ptr<Pending> all_reduce(const at::Tensor& values, const char* name) override {
    c10d::AllreduceOptions options;
    options.timeout = timeout_;
    std::vector<at::Tensor> tensors{values};
    return pending(name, [&] { return std::vector{group_->allreduce(tensors, options)}; });
  }

  // One reduction a part, to its owner: parts need not be equal, and nothing is copied.
  std::unique_ptr<Pending> reduce_scatter(const at::Tensor& flat, const ShardLimits& limits,
                                          const char* name) override {
    return each_part(flat, limits, name, [&](std::vector<at::Tensor>& part, int owner) {
      c10d::ReduceOptions options;
      options.timeout = timeout_;
      options.rootRank = owner;
      return group_->reduce(part, options);
    });
  }

  std::unique_ptr<Pending> all_gather(const at::Tensor& flat, const ShardLimits& limits,
                                      const char* name) override {
    return each_part(flat, limits, name, [&](std::vector<at::Tensor>& part, int owner) {
      c10d::BroadcastOptions options;
      options.timeout = timeout_;
      options.rootRank = owner;
      return group_->broadcast(part, options);
    });
  }

  std::vector<std::string> exchange(const std::string& mine, const char* name,
                                    Patience patience) override {
    const auto length = static_cast<int64_t>(mine.size());
    at::Tensor own = at::empty({length}, at::kByte);
    std::memcpy(own.mutable_data_ptr(), mine.data(), mine.size());
    std::vector<at::Tensor> inputs{own};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int r = 0; r < size(); ++r) outputs[0].push_back(at::empty({length}, at::kByte));
    c10d::AllgatherOptions options;
    options.timeout =
        patience == Patience::long_work ? std::max<milliseconds>(timeout_, kLongWork) : timeout_;
    const Call call = begin(name, options.timeout);
    guarded(call, [&] { group_->allgather(outputs, inputs, options)->wait(); });
    std::vector<std::string> all;
    for (const at::Tensor& bytes : outputs[0])
      all.emplace_back(static_cast<const char*>(bytes.const_data_ptr()), mine.size());
    return all;
  }

 private:
  struct Call {
    const char* name;
    int64_t step;
    milliseconds limit;
    Clock::time_point since = Clock::now();
  };

  class Works final : public Pending {
   public:
    Works(C10d& owner, const char* name, std::vector<WorkPointer> works)
        : owner_(owner), name_(name), works_(std::move(works)) {}
    void wait() override {
      const Call call = owner_.begin(name_, owner_.timeout_);
      owner_.guarded(call, [&] {
        for (const WorkPointer& work : works_) work->wait();
      });
    }

   private:
    C10d& owner_;
    const char* name_;
    std::vector<WorkPointer> works_;
  };

  template <typename Start>
  std::unique_ptr<Pending> pending(const char* name, const Start& start) {
    std::vector<WorkPointer> works;
    try {
      works = start();
    } catch (const std::exception& error) {
      fail({name, step(), timeout_}, error.what());
    }
    return std::make_unique<Works>(*this, name, std::move(works));
  }

  template <typename Start>
  std::unique_ptr<Pending> each_part(const at::Tensor& flat, const ShardLimits& limits,
                                     const char* name, const Start& start) {
    return pending(name, [&] {
      std::vector<WorkPointer> works;
      for (int r = 0; r < size(); ++r) {
        const int64_t first = limits[static_cast<size_t>(r)];
        const int64_t count = limits[static_cast<size_t>(r) + 1] - first;
        if (count == 0) continue;
        std::vector<at::Tensor> part{flat.narrow(0, first, count)};
        works.push_back(start(part, r));
      }
      return works;
    });
  }

  // This rank has come to a call and waits in it from now on.
  Call begin(const char* name, milliseconds limit) {
    Call call{name, step(), limit};
    watchdog_.watch(limit + kGrace, message(call, "it has neither ended nor failed in time", ""));
    ++calls_;
    guarded(
        call, [&] { meeting_->arrived(calls_); }, /*goes_on=*/true);
    return call;
  }

  template <typename Wait>
  void guarded(const Call& call, const Wait& wait, bool goes_on = false) {
    try {
      wait();
      if (!goes_on) watchdog_.rest();
    } catch (const std::exception& error) {
      fail(call, error.what());
    }
  }

  [[noreturn]] void fail(const Call& call, const char* what) {
    const std::string said = message(call, short_reason(what), missing_ranks());
    watchdog_.watch(kToLeave, said + "; the process did not end in good order after that");
    throw ResourceError("{}", said);
  }

  std::string message(const Call& call, const std::string& reason, const std::string& who) const {
    const auto waited = std::chrono::duration<double>(Clock::now() - call.since).count();
    return fmt::format(
        "rank {} of {}: lost the other processes in '{}' of step {}, {:.0f} s after it came there "
        "(dist_timeout {} s): {}{}. Checkpoints are whole: go on with --resume auto",
        rank(), size(), call.name, call.step, waited,
        std::chrono::duration_cast<seconds>(timeout_).count(), reason, who);
  }

  // Asked for in a thread of its own, for which nobody waits when no answer comes.
  std::string missing_ranks() {
    auto answer = std::make_shared<std::promise<std::string>>();
    std::future<std::string> said = answer->get_future();
    start_without_signals([answer, meeting = meeting_, size = size(), calls = calls_] {
      std::string missing = kNoMeetingPlace;
      try {
        meeting->leave();
        missing = meeting->missing(size, calls);
      } catch (const std::exception&) {
      }
      answer->set_value(std::move(missing));
    }).detach();
    return said.wait_for(kStoreAnswers) == std::future_status::ready ? said.get() : kNoMeetingPlace;
  }

  milliseconds timeout_;
  Watchdog watchdog_;  // outlives what may hang when it ends
  std::shared_ptr<MeetingPlace> meeting_;
  Heart heart_;
  uint64_t calls_ = 0;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

bool has_gloo() {
  return true;
}

std::unique_ptr<Collective> join_processes(const ProcessPlace& place, seconds timeout) {
  // c10d warns of each lost connection with a stack trace; what is lost is said by the error.
  if (!environment_variable("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_ERROR;
  try {
    return std::make_unique<C10d>(place, timeout);
  } catch (const std::exception& error) {
    throw ResourceError(
        "rank {} of {}: the processes of the run could not meet at {}:{} within {} s: {}. Check "
        "that "
        "all of them are started, and that the address (MASTER_ADDR, MASTER_PORT) can be reached "
        "from every machine (GLOO_SOCKET_IFNAME names the network interface)",
        place.rank, place.world_size, place.master_addr, place.master_port, timeout.count(),
        short_reason(error.what()));
  }
}

}  // namespace train_sft

#else  // TRAIN_SFT_GLOO

namespace train_sft {

bool has_gloo() {
  return false;
}

std::unique_ptr<Collective> join_processes(const ProcessPlace& place, std::chrono::seconds) {
  throw UsageError(
      "this is process {} of {}, but the program was built without Gloo; install libgloo-dev "
      "(scripts/setup.sh does), run cmake again and build",
      place.rank, place.world_size);
}

}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO

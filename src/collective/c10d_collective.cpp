#ifdef TRAIN_SFT_GLOO

#include "collective/c10d_collective.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "base/without_signals.h"
#include "train_sft/base/error.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kDay{24 * 3600 * 1000};  // c10d's own timeout; ours come before
constexpr seconds kGrace{20};                   // of the watchdog beyond the run's timeout
constexpr seconds kToLeave{60};      // for a process that has failed to end in good order
constexpr seconds kStoreAnswers{5};  // or it is gone
constexpr seconds kSoon{2};          // most waits are short: only then one looks who lives
constexpr microseconds kLookAtDevice{200}, kLookAtHost{50'000};

// Sleeps between looks, the longer the more there were.
class Patiently {
 public:
  void sleep(microseconds most) {
    std::this_thread::sleep_for(next_);
    next_ = std::min(most, next_ * 3 / 2);
  }

 private:
  microseconds next_{20};
};

// c10d sleeps, and wakes this thread when it has ended.
bool ends_soon(c10d::Work& work) {
  try {
    work.wait(kSoon);
  } catch (const std::exception&) {
    if (work.isCompleted()) throw;
    return false;
  }
  return true;
}

}  // namespace

std::string short_reason(std::string text) {
  if (const size_t line = text.find('\n'); line != text.npos) text.resize(line);
  if (text.starts_with('[') && text.find("] ") != text.npos) text.erase(0, text.find("] ") + 2);
  if (const size_t hint = text.find(". This may indicate"); hint != text.npos) text.resize(hint);
  return text;
}

class C10dCollective::Works final : public Pending {
 public:
  Works(C10dCollective& owner, const char* name, bool on_device, std::vector<WorkPointer> works)
      : owner_(owner), name_(name), on_device_(on_device), works_(std::move(works)) {}

  void wait() override {
    const Call call = owner_.begin(name_);
    owner_.guarded(call, [&] {
      for (const WorkPointer& work : works_) owner_.wait_for(call, *work, on_device_);
    });
  }

 private:
  C10dCollective& owner_;
  const char* name_;
  bool on_device_;
  std::vector<WorkPointer> works_;
};

C10dCollective::C10dCollective(const ProcessPlace& place, milliseconds timeout,
                               const BetweenHosts& between_hosts)
    : Collective(place),
      timeout_(timeout),
      meeting_(std::make_shared<MeetingPlace>(place, timeout)),
      heart_(meeting_),
      between_hosts_(between_hosts(meeting_->store())) {}

void C10dCollective::connect_devices(const Connect& connect) {
  const c10::intrusive_ptr<c10d::Store> own =
      c10::make_intrusive<c10d::PrefixStore>("train_sft/devices", meeting_->store());
  try {
    between_devices_ = Backend::reclaim(connect(own, rank(), size(), kDay.count()));
  } catch (const std::exception& error) {
    throw ResourceError("no transport between the processes' devices: {}",
                        short_reason(error.what()));
  }
}

C10dCollective::~C10dCollective() {
  if (between_devices_ && !abandoned_) {
    watchdog_.watch(kToLeave, "the transport between the processes' devices did not end");
    between_devices_->shutdown();
  }
  if (!abandoned_) return;
  // They would wait for what is under way. The process is about to end.
  if (between_devices_) between_devices_->abort();
  (void)between_hosts_.release();
  (void)between_devices_.release();
}

c10d::Backend& C10dCollective::backend_of(const at::Tensor& tensor) const {
  if (tensor.device().is_cpu()) return *between_hosts_;
  TRAIN_SFT_CHECK(between_devices_, "no transport between devices");
  return *between_devices_;
}

std::unique_ptr<Collective::Pending> C10dCollective::all_reduce(const at::Tensor& values,
                                                                const char* name) {
  c10d::AllreduceOptions options;
  options.timeout = kDay;
  std::vector<at::Tensor> tensors{values};
  return pending(name, values,
                 [&] { return std::vector{backend_of(values).allreduce(tensors, options)}; });
}

// As integers: floats of one sign have their order, and NaN, which libraries lose or keep as they
// like, comes after infinity.
std::unique_ptr<Collective::Pending> C10dCollective::all_reduce_max(const at::Tensor& values,
                                                                    const char* name) {
  TRAIN_SFT_CHECK(values.scalar_type() == at::kFloat, "the largest of what is not float");
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::MAX;
  options.timeout = kDay;
  std::vector<at::Tensor> tensors{values.view(at::kInt)};
  return pending(name, values,
                 [&] { return std::vector{backend_of(values).allreduce(tensors, options)}; });
}

// One reduction a part, to its owner: parts need not be equal, and nothing is copied.
std::unique_ptr<Collective::Pending> C10dCollective::reduce_scatter(const at::Tensor& flat,
                                                                    const ShardLimits& limits,
                                                                    const char* name) {
  return each_part(flat, limits, name, [&](std::vector<at::Tensor>& part, int owner) {
    c10d::ReduceOptions options;
    options.timeout = kDay;
    options.rootRank = owner;
    return backend_of(flat).reduce(part, options);
  });
}

std::unique_ptr<Collective::Pending> C10dCollective::all_gather(const at::Tensor& flat,
                                                                const ShardLimits& limits,
                                                                const char* name) {
  return each_part(flat, limits, name, [&](std::vector<at::Tensor>& part, int owner) {
    c10d::BroadcastOptions options;
    options.timeout = kDay;
    options.rootRank = owner;
    return backend_of(flat).broadcast(part, options);
  });
}

std::vector<std::string> C10dCollective::exchange(const std::string& mine, const char* name) {
  const auto length = static_cast<int64_t>(mine.size());
  at::Tensor own = at::empty({length}, at::kByte);
  std::memcpy(own.mutable_data_ptr(), mine.data(), mine.size());
  std::vector<at::Tensor> inputs{own};
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int r = 0; r < size(); ++r) outputs[0].push_back(at::empty({length}, at::kByte));
  c10d::AllgatherOptions options;
  options.timeout = kDay;
  const Call call = begin(name);
  guarded(call, [&] {
    const WorkPointer work = between_hosts_->allgather(outputs, inputs, options);
    wait_for(call, *work, false);
  });
  std::vector<std::string> all;
  for (const at::Tensor& bytes : outputs[0])
    all.emplace_back(static_cast<const char*>(bytes.const_data_ptr()), mine.size());
  return all;
}

std::unique_ptr<Collective::Pending> C10dCollective::pending(
    const char* name, const at::Tensor& tensor,
    const std::function<std::vector<WorkPointer>()>& start) {
  const bool on_device = !tensor.device().is_cpu();
  std::vector<WorkPointer> works;
  // The first call between devices connects them, and may hang in it.
  if (on_device)
    watchdog_.watch(timeout_ + kGrace,
                    message({name, step()}, "the devices' transport does not start it", ""));
  try {
    works = start();
    watchdog_.rest();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail({name, step()}, short_reason(error.what()), missing_ranks());
  }
  return std::make_unique<Works>(*this, name, on_device, std::move(works));
}

std::unique_ptr<Collective::Pending> C10dCollective::each_part(const at::Tensor& flat,
                                                               const ShardLimits& limits,
                                                               const char* name,
                                                               const StartPart& start) {
  return pending(name, flat, [&] {
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

C10dCollective::Call C10dCollective::begin(const char* name) {
  Call call{name, step()};
  watchdog_.watch(timeout_ + kStoreAnswers,
                  message(call, "the meeting place does not answer", kNoMeetingPlace));
  ++calls_;
  guarded(call, [&] { meeting_->arrived(calls_); });
  heart_.waits(true);
  watchdog_.watch(timeout_ + kGrace, message(call, "it has neither ended nor failed in time", ""));
  return call;
}

void C10dCollective::wait_for(const Call& call, c10d::Work& work, bool on_device) {
  if (!on_device && ends_soon(work)) return;
  std::optional<Lookout> lookout;
  Patiently patiently;
  while (!work.isCompleted()) {
    watchdog_.extend(timeout_ + kGrace);
    patiently.sleep(on_device ? kLookAtDevice : kLookAtHost);
    if (!lookout) {
      if (Clock::now() - call.since >= kSoon) lookout.emplace(meeting_, size(), timeout_);
    } else if (const auto verdict = lookout->verdict()) {
      abandoned_ = true;
      fail(call, *verdict, "");
    } else {
      say(call, lookout->disks());
    }
  }
  if (const std::exception_ptr error = work.exception()) std::rethrow_exception(error);
  work.wait();
}

void C10dCollective::say(const Call& call, const std::string& disks) {
  if (disks == disks_) return;
  disks_ = disks;
  if (disks.empty() || place().local_rank != 0) return;
  log::warning("'{}' of step {} waits for a disk that does not answer: {}", call.name, call.step,
               disks);
}

void C10dCollective::guarded(const Call& call, const std::function<void()>& wait) {
  try {
    wait();
    watchdog_.rest();
    heart_.waits(false);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    abandoned_ = abandoned_ || between_devices_;
    fail(call, short_reason(error.what()), missing_ranks());
  }
}

void C10dCollective::fail(const Call& call, const std::string& reason, const std::string& who) {
  const std::string said = message(call, reason, who);
  heart_.waits(false);
  watchdog_.watch(kToLeave, said + "; the process did not end in good order after that");
  throw LostProcesses(said);
}

std::string C10dCollective::message(const Call& call, const std::string& reason,
                                    const std::string& who) const {
  const auto waited = std::chrono::duration<double>(Clock::now() - call.since).count();
  return fmt::format(
      "rank {} of {}: lost the other processes in '{}' of step {}, {:.0f} s after it came there "
      "(dist_timeout {} s): {}{}. Checkpoints are whole: go on with --resume auto",
      rank(), size(), call.name, call.step, waited,
      std::chrono::duration_cast<seconds>(timeout_).count(), reason, who);
}

// Asked for in a thread of its own, for which nobody waits when no answer comes.
std::string C10dCollective::missing_ranks() const {
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

}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO

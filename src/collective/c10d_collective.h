// A Collective made of c10d's backends: one between hosts, for bytes and what lies on the CPU, and,
// where the ranks compute on devices, one between those.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "collective/meeting_place.h"
#include "collective/watchdog.h"
#include "train_sft/collective/collective.h"

namespace train_sft {

// "[/pytorch/.../pair.cc:537] Connection closed by peer [10.0.0.2]:4000" without the place, and
// without the stack trace that LibTorch appends.
std::string short_reason(std::string text);

class C10dCollective final : public Collective {
 public:
  using Backend = c10::intrusive_ptr<c10d::Backend>;
  using BetweenHosts = std::function<Backend(const c10::intrusive_ptr<c10d::Store>& store)>;

  C10dCollective(const ProcessPlace& place, std::chrono::milliseconds timeout,
                 const BetweenHosts& between_hosts);
  ~C10dCollective() override;

  void progressed() override { heart_.worked(); }
  void connect_devices(const Connect& connect) override;

  std::unique_ptr<Pending> all_reduce(const at::Tensor& values, const char* name) override;
  std::unique_ptr<Pending> all_reduce_max(const at::Tensor& values, const char* name) override;
  std::unique_ptr<Pending> reduce_scatter(const at::Tensor& flat, const ShardLimits& limits,
                                          const char* name) override;
  std::unique_ptr<Pending> all_gather(const at::Tensor& flat, const ShardLimits& limits,
                                      const char* name) override;
  std::vector<std::string> exchange(const std::string& mine, const char* name) override;

 protected:
  void long_work(bool begins) override { heart_.long_work(begins); }

 private:
  using Clock = std::chrono::steady_clock;
  using WorkPointer = c10::intrusive_ptr<c10d::Work>;
  struct Call {
    const char* name;
    int64_t step;
    Clock::time_point since = Clock::now();
  };
  class Works;

  c10d::Backend& backend_of(const at::Tensor& tensor) const;
  // What all_gather and reduce_scatter do with the part of each owner.
  using StartPart = std::function<WorkPointer(std::vector<at::Tensor>& part, int owner)>;
  std::unique_ptr<Pending> each_part(const at::Tensor& flat, const ShardLimits& limits,
                                     const char* name, const StartPart& start);
  std::unique_ptr<Pending> pending(const char* name, const at::Tensor& tensor,
                                   const std::function<std::vector<WorkPointer>()>& start);

  // This rank has come to a call, and waits in it from now on.
  Call begin(const char* name);
  // Until it has ended, as long as those who have not come live and are at work. A device is looked
  // at, too: c10d's own wait() would return at once, and a peer that is gone show as a device that
  // never ends.
  void wait_for(const Call& call, c10d::Work& work, bool on_device);
  void guarded(const Call& call, const std::function<void()>& wait);
  // Whose disk this rank waits for, when that has changed: once a machine.
  void say(const Call& call, const std::string& disks);
  [[noreturn]] void fail(const Call& call, const std::string& reason, const std::string& who);
  std::string message(const Call& call, const std::string& reason, const std::string& who) const;
  std::string missing_ranks() const;

  std::chrono::milliseconds timeout_;
  Watchdog watchdog_;  // outlives what may hang when it ends
  std::shared_ptr<MeetingPlace> meeting_;
  Heart heart_;
  uint64_t calls_ = 0;
  std::string disks_;       // that were said to be waited for
  bool abandoned_ = false;  // a call is still under way that nobody waits for
  Backend between_hosts_, between_devices_;
};

}  // namespace train_sft

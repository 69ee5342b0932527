// What the processes of a run do together. Training sees this class alone: one process, c10d and
// the tests' fake stand behind it, and the same path runs on all of them.
//
// Every rank must make the same calls in the same order. A peer that died, is stopped, or neither
// comes nor shows within the timeout that it is at work (LongWork, progressed()) shows as
// LostProcesses on every other rank, naming the call.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/dist/environment.h"
#include "train_sft/ops/connect_devices.h"

namespace train_sft {

// Other processes of the run are gone. Unlike a ResourceError it cannot be gone on from: neither a
// smaller micro-batch nor another try to save would help.
class LostProcesses : public Error {
 public:
  explicit LostProcesses(const std::string& message) : Error(ExitCode::resource, message) {}
};

// Rank r's part of a flat buffer is elements [limits[r], limits[r + 1]).
using ShardLimits = std::vector<int64_t>;

class Collective {
 public:
  // One under way. Its tensor must be left alone until wait() has returned.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
  };
  explicit Collective(ProcessPlace place) : place_(std::move(place)) {}
  virtual ~Collective() = default;
  Collective(const Collective&) = delete;
  Collective& operator=(const Collective&) = delete;

  const ProcessPlace& place() const { return place_; }
  int rank() const { return place_.rank; }
  int size() const { return place_.world_size; }
  bool is_first() const { return rank() == 0; }
  void at_step(int64_t step) { step_ = step; }  // for messages

  // This rank has done a piece of its work: others go on waiting for it.
  virtual void progressed() {}

  // From here on tensors on devices go over what `connect` gives. On every rank, whose device is
  // open. Throws ResourceError.
  using Connect = std::function<std::remove_pointer_t<ops::ConnectDevices>>;
  virtual void connect_devices(const Connect& connect);

  // `name` says in messages what is going on; it must outlive the call. Tensors are contiguous
  // float, double or bfloat16, on the CPU or all on devices.
  // The sum over all ranks, in place, the same bits on each.
  virtual std::unique_ptr<Pending> all_reduce(const at::Tensor& values, const char* name) = 0;
  // The largest over all ranks of each number, none of which is negative, in place; float. What is
  // not a number is larger than any.
  virtual std::unique_ptr<Pending> all_reduce_max(const at::Tensor& values, const char* name) = 0;
  // Of the sum each rank gets its part; what stands elsewhere afterwards is of no use.
  virtual std::unique_ptr<Pending> reduce_scatter(const at::Tensor& flat, const ShardLimits& limits,
                                                  const char* name) = 0;
  // Every rank's part to all.
  virtual std::unique_ptr<Pending> all_gather(const at::Tensor& flat, const ShardLimits& limits,
                                              const char* name) = 0;
  // Every rank's bytes, by rank. As many on each rank.
  virtual std::vector<std::string> exchange(const std::string& mine, const char* name) = 0;

  // -- made of the above
  std::vector<std::vector<double>> exchange_numbers(const std::vector<double>& mine,
                                                    const char* name);
  // As exchange(), of any length.
  std::vector<std::string> exchange_text(const std::string& mine, const char* name);
  // Returns when all have come.
  void barrier(const char* name);

 protected:
  friend class LongWork;
  virtual void long_work(bool /*begins*/) {}
  int64_t step() const { return step_; }

 private:
  ProcessPlace place_;
  int64_t step_ = 0;
};

// While it lives this rank has work of its own that takes as long as it takes: tokenising, a
// checkpoint, a slow disk. Others wait for it as long as its process is not stopped.
class LongWork {
 public:
  explicit LongWork(Collective& collective) : collective_(collective) {
    collective_.long_work(true);
  }
  ~LongWork() { collective_.long_work(false); }
  LongWork(const LongWork&) = delete;
  LongWork& operator=(const LongWork&) = delete;

 private:
  Collective& collective_;
};

// A run of one process.
Collective& single_process();

}  // namespace train_sft

// Processes that are not there: they do what this one does. Counts calls and bytes, fails or hangs
// at the n-th call.
#pragma once

#include <ATen/ops/empty_like.h>

#include <functional>
#include <string>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/collective/collective.h"

namespace train_sft {

class FakeCollective final : public Collective {
 public:
  struct Call {
    std::string what, name;
    uint64_t bytes = 0;
    bool operator==(const Call&) const = default;
  };

  explicit FakeCollective(int size, int rank = 0) : Collective(place(rank, size)) {}

  std::vector<Call> calls;
  int64_t fails_at = -1;  // the call with this number: a peer is gone
  // Sees each call as it is made.
  std::function<void(const Call&)> on_call;
  // What another rank says in an exchange; default: the same.
  std::function<std::string(int rank, const std::string& name, const std::string& mine)> answer;

  // Makes this rank's numbers, on the host, what all ranks' are together; false: as by default,
  // when the others have the same.
  std::function<bool(const std::string& name, const at::Tensor& values)> together;

  void connect_devices(const Connect&) override {}
  std::unique_ptr<Pending> all_reduce(const at::Tensor& values, const char* name) override {
    record("all_reduce", name, values.nbytes());
    return reduced(values, name, [n = size()](at::Tensor sums) { sums.mul_(n); });
  }
  std::unique_ptr<Pending> all_reduce_max(const at::Tensor& values, const char* name) override {
    record("all_reduce_max", name, values.nbytes());
    return reduced(values, name, [](const at::Tensor&) {});
  }
  std::unique_ptr<Pending> reduce_scatter(const at::Tensor& flat, const ShardLimits&,
                                          const char* name) override {
    record("reduce_scatter", name, flat.nbytes());
    return reduced(flat, name, [n = size()](at::Tensor sums) { sums.mul_(n); });
  }
  std::unique_ptr<Pending> all_gather(const at::Tensor& flat, const ShardLimits&,
                                      const char* name) override {
    record("all_gather", name, flat.nbytes());
    return std::make_unique<Waited>([] {});
  }
  std::vector<std::string> exchange(const std::string& mine, const char* name) override {
    record("exchange", name, mine.size());
    std::vector<std::string> all(static_cast<size_t>(size()), mine);
    for (int r = 0; r < size() && answer; ++r)
      if (r != rank()) all[static_cast<size_t>(r)] = answer(r, name, mine);
    return all;
  }

  // The calls named so, without the others.
  std::vector<Call> named(const std::string& name) const {
    std::vector<Call> found;
    for (const Call& call : calls)
      if (call.name == name) found.push_back(call);
    return found;
  }

 private:
  class Waited final : public Pending {
   public:
    explicit Waited(std::function<void()> at_the_end) : at_the_end_(std::move(at_the_end)) {}
    void wait() override { at_the_end_(); }

   private:
    std::function<void()> at_the_end_;
  };

  std::unique_ptr<Pending> reduced(const at::Tensor& values, const std::string& name,
                                   const std::function<void(at::Tensor)>& by_default) {
    return std::make_unique<Waited>([=, this, to = values]() mutable {
      at::Tensor host = to;
      if (!to.is_cpu()) host = at::empty_like(to, at::TensorOptions(at::kCPU)).copy_(to);
      if (!together || !together(name, host)) by_default(host);
      if (!to.is_cpu()) to.copy_(host);
    });
  }

  static ProcessPlace place(int rank, int size) {
    ProcessPlace place;
    place.rank = place.local_rank = rank;
    place.world_size = place.local_world_size = size;
    return place;
  }

  void record(const char* what, const char* name, uint64_t bytes) {
    if (static_cast<int64_t>(calls.size()) == fails_at)
      throw LostProcesses(fmt::format("call {} ('{}'): a peer is gone", calls.size(), name));
    calls.push_back({what, name, bytes});
    if (on_call) on_call(calls.back());
  }
};

}  // namespace train_sft

// Processes that are not there: they do what this one does. Counts calls and bytes, fails or hangs
// at the n-th call.
#pragma once

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

  std::unique_ptr<Pending> all_reduce(const at::Tensor& values, const char* name) override {
    record("all_reduce", name, values.nbytes());
    return std::make_unique<Waited>([values, n = size()] { at::Tensor(values).mul_(n); });
  }
  std::unique_ptr<Pending> reduce_scatter(const at::Tensor& flat, const ShardLimits&,
                                          const char* name) override {
    record("reduce_scatter", name, flat.nbytes());
    return std::make_unique<Waited>([flat, n = size()] { at::Tensor(flat).mul_(n); });
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

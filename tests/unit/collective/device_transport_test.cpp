// How a Collective of c10d's backends treats tensors that lie on devices. The backends are fakes,
// the device is LibTorch's "meta", which has no memory: what is under test is who is called with
// what, and that a device that never ends is not waited for.
#ifdef TRAIN_SFT_GLOO

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "collective/c10d_collective.h"
#include "support/ranks.h"

namespace train_sft {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Done when it was asked so often; -1: never.
class FakeWork final : public c10d::Work {
 public:
  FakeWork(std::vector<std::string>& log, int looks) : log_(log), looks_(looks) {}
  bool isCompleted() override { return looks_ >= 0 && looks_-- == 0; }
  std::exception_ptr exception() const override { return nullptr; }
  bool wait(milliseconds) override {
    log_.emplace_back("wait");
    return true;
  }

 private:
  std::vector<std::string>& log_;
  int looks_;
};

class FakeBackend final : public c10d::Backend {
 public:
  explicit FakeBackend(int looks = 3) : Backend(0, 3), looks_(looks) {}

  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    const bool largest = options.reduceOp == c10d::ReduceOp::MAX;
    return started(largest ? "largest" : "sum", tensors[0]);
  }
  c10::intrusive_ptr<c10d::Work> reduce(std::vector<at::Tensor>& tensors,
                                        const c10d::ReduceOptions& options) override {
    return started(fmt::format("sum to {}", options.rootRank), tensors[0]);
  }
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override {
    return started(fmt::format("from {}", options.rootRank), tensors[0]);
  }
  void abort() override { log.emplace_back("abort"); }

  std::vector<std::string> log;

 private:
  c10::intrusive_ptr<c10d::Work> started(const std::string& what, const at::Tensor& tensor) {
    log.push_back(fmt::format("{} of {}", what, tensor.numel()));
    return c10::make_intrusive<FakeWork>(log, looks_);
  }

  int looks_;
};

struct Fakes {
  c10::intrusive_ptr<FakeBackend> hosts, devices;

  explicit Fakes(int looks = 3)
      : hosts(c10::make_intrusive<FakeBackend>()),
        devices(c10::make_intrusive<FakeBackend>(looks)) {}
  // The others' meeting place is this process.
  std::unique_ptr<C10dCollective> join(milliseconds timeout) const {
    auto all = std::make_unique<C10dCollective>(place_of(0, 3, free_port()), timeout,
                                                [this](const auto&) { return hosts; });
    all->connect_devices([this](const auto&, int rank, int size, int64_t) {
      EXPECT_EQ(rank, 0);
      EXPECT_EQ(size, 3);
      return c10::intrusive_ptr<FakeBackend>(devices).release();
    });
    return all;
  }
};

at::Tensor on_device(int64_t numel, at::ScalarType type = at::kBFloat16) {
  return at::empty({numel}, at::TensorOptions(at::kMeta).dtype(type));
}

TEST(DeviceTransportTest, TensorsGoWhereTheyLie) {
  const Fakes fakes;
  const auto all = fakes.join(seconds(30));
  all->all_reduce(on_device(10), "gradients")->wait();
  all->reduce_scatter(on_device(10), {0, 4, 4, 10}, "gradients")->wait();
  all->all_gather(on_device(10), {0, 0, 7, 10}, "weights")->wait();
  EXPECT_THAT(fakes.hosts->log, IsEmpty());
  EXPECT_THAT(fakes.devices->log,
              ElementsAre("sum of 10", "wait", "sum to 0 of 4", "sum to 2 of 6", "wait", "wait",
                          "from 1 of 7", "from 2 of 3", "wait", "wait"));
  fakes.devices->log.clear();
  all->all_reduce_max(on_device(5, at::kFloat), "scales")->wait();
  EXPECT_THAT(fakes.devices->log, ElementsAre("largest of 5", "wait"));
  all->all_reduce(at::empty({6}, at::kFloat), "sums")->wait();
  EXPECT_THAT(fakes.hosts->log, ElementsAre("sum of 6", "wait"));
}

TEST(DeviceTransportTest, ADeviceThatNeverEndsIsALostPeer) {
  const Fakes fakes(-1);
  const auto begin = std::chrono::steady_clock::now();
  auto all = fakes.join(seconds(1));
  all->at_step(7);
  const auto pending = all->all_reduce(on_device(10), "gradients");
  try {
    pending->wait();
    FAIL() << "nothing was thrown";
  } catch (const LostProcesses& error) {
    EXPECT_THAT(error.what(), HasSubstr("in 'gradients' of step 7"));
    EXPECT_THAT(error.what(), HasSubstr("no sign of life from rank 1, 2"));
  }
  all.reset();
  EXPECT_THAT(fakes.devices->log, ElementsAre("sum of 10", "abort"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
}

}  // namespace
}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO

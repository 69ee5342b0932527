#include "model/graph_cache.h"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "support/fake_device.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

using fake_device::on_host;

// Adds 1 to a number in device memory: how often the work was done, however it was.
class GraphCacheTest : public testing::Test {
 protected:
  GraphCacheTest() { log::set_level(log::Level::error); }
  ~GraphCacheTest() override { log::set_level(log::Level::info); }

  static GraphKey key(int64_t tokens, uint32_t mode = 0) { return {{tokens, 0, 0, 0}, mode}; }
  void work() {
    ++called_;
    const at::Tensor grad = done_;  // done += 1 · 1
    table_->gemm(grad, one_, false, one_, false, 1, {}, true);
  }
  void run(GraphCache& cache, const GraphKey& of) {
    cache.run(of, [this] { work(); });
  }
  double done() const { return on_host(done_).item<double>(); }

  fake_device::Device device_;
  const ops::DeviceTable* table_ = ops::device_table(fake_device::kType);
  at::TensorOptions options_ = at::TensorOptions().dtype(at::kDouble).device(fake_device::kDevice);
  at::Tensor done_ = at::zeros({1, 1}, options_), one_ = at::zeros({1, 1}, options_).fill_(1);
  int called_ = 0;
};

TEST_F(GraphCacheTest, TheFirstTimeRunsTheSecondIsCapturedAndAllAfterAreReplayed) {
  GraphCache cache(table_);
  for (int i = 0; i < 10; ++i) run(cache, key(128));
  EXPECT_EQ(done(), 10);
  EXPECT_EQ(called_, 2);  // as it is, and recorded
  EXPECT_EQ(device_.counts().captures, 1);
  EXPECT_EQ(device_.counts().replays, 9);
  run(cache, key(256));
  run(cache, key(128, 1));  // another mode of the same shape
  EXPECT_EQ(called_, 4);
  EXPECT_EQ(done(), 12);
  EXPECT_EQ(cache.graphs(), 1U);
}

TEST_F(GraphCacheTest, WhatCannotBeCapturedRunsWithoutAndOthersGoOn) {
  GraphCache cache(table_);
  device_.fail_capture(1);
  for (int i = 0; i < 6; ++i) run(cache, key(128));
  EXPECT_EQ(done(), 6);
  EXPECT_EQ(cache.graphs(), 0U);
  EXPECT_EQ(device_.counts().captures, 1);  // not tried again
  for (int i = 0; i < 6; ++i) run(cache, key(256));
  EXPECT_EQ(done(), 12);
  EXPECT_EQ(cache.graphs(), 1U);
}

// A kernel that allocates when it is captured, against the rules: the capture is given up.
TEST_F(GraphCacheTest, AnAllocationDuringACaptureEndsItAndTheWorkIsDoneOnce) {
  GraphCache cache(table_);
  int times = 0;
  for (int i = 0; i < 4; ++i)
    cache.run(key(128), [&] {
      if (++times == 2) at::zeros({1}, options_);
      work();
    });
  EXPECT_EQ(done(), 4);
  EXPECT_EQ(cache.failures(), 1);
}

TEST_F(GraphCacheTest, AReplayThatFailsIsDoneWithout) {
  GraphCache cache(table_);
  for (int i = 0; i < 4; ++i) run(cache, key(128));
  device_.fail_replay(1);
  for (int i = 0; i < 4; ++i) run(cache, key(128));
  EXPECT_EQ(done(), 8);
  EXPECT_EQ(device_.counts().graphs, 0);
}

TEST_F(GraphCacheTest, ADeviceThatKeepsRefusingIsNotAskedAgain) {
  GraphCache cache(table_);
  device_.fail_capture(1, 1000);
  for (int64_t shape = 0; shape < 20; ++shape)
    for (int i = 0; i < 3; ++i) run(cache, key(shape));
  EXPECT_EQ(done(), 60);
  EXPECT_EQ(device_.counts().captures, GraphCache::kMostFailures);
  EXPECT_FALSE(cache.enabled());
}

TEST_F(GraphCacheTest, GraphsAreBoundedAndThoseUsedLastAreKept) {
  {
    GraphCache cache(table_, 3);
    for (int64_t shape = 0; shape < 8; ++shape) {
      for (int i = 0; i < 3; ++i) run(cache, key(shape));
      run(cache, key(0));
      EXPECT_LE(device_.counts().graphs, 3);
    }
    const int64_t captures = device_.counts().captures;
    run(cache, key(0));
    EXPECT_EQ(device_.counts().captures, captures);  // used all the time, and so still there
    cache.clear();
    EXPECT_EQ(device_.counts().graphs, 0);
    for (int i = 0; i < 2; ++i) run(cache, key(0));
    EXPECT_EQ(device_.counts().graphs, 1);
  }
  EXPECT_EQ(device_.counts().graphs, 0);  // none is left over
}

TEST_F(GraphCacheTest, WhatTheWorkThrowsComesOutAndNothingIsRemembered) {
  GraphCache cache(table_);
  EXPECT_THROW(cache.run(key(1), [] { throw std::runtime_error("no"); }), std::runtime_error);
  for (int i = 0; i < 3; ++i) run(cache, key(1));
  EXPECT_EQ(done(), 3);
  EXPECT_EQ(cache.graphs(), 1U);
}

}  // namespace
}  // namespace train_sft

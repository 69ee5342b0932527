// c10d's NCCL behind the Collective, on the GPU there is; one rank needs no other.
#include "collective/cuda/nccl.h"

#include <ATen/ops/arange.h>
#include <c10/cuda/CUDAFunctions.h>
#include <gmock/gmock.h>

#include "support/ranks.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

using std::chrono::seconds;

std::unique_ptr<Collective> join_alone() {
  auto all = join_processes(place_of(0, 1, free_port()), seconds(60));
  all->connect_devices(train_sft_connect_devices);
  return all;
}

TEST(NcclTest, OneRankOnAGpu) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  if (c10::cuda::device_count() == 0) GTEST_SKIP() << "no GPU";
  const auto all = join_alone();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor expected = at::arange(1000, at::kFloat).to(type);
    const at::Tensor values = expected.to(at::kCUDA);
    all->all_reduce(values, "sum")->wait();
    all->reduce_scatter(values, {0, 1000}, "scatter")->wait();
    all->all_gather(values, {0, 1000}, "gather")->wait();
    if (type == at::kFloat) all->all_reduce_max(values, "largest")->wait();
    EXPECT_TRUE(values.to(at::kCPU).equal(expected));
  }
  EXPECT_EQ(all->exchange_text("word", "text"), std::vector<std::string>{"word"});
}

TEST(NcclTest, WithoutAGpuItSaysSo) {
  if (!has_gloo()) GTEST_SKIP() << "built without Gloo";
  if (c10::cuda::device_count() > 0) GTEST_SKIP() << "there is a GPU";
  try {
    join_alone();
    FAIL() << "nothing was thrown";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("no GPUs found"));
  }
}

}  // namespace
}  // namespace train_sft

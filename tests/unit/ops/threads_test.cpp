#include <ATen/Parallel.h>

#include <thread>

#include "train_sft/ops/linear.h"
#include "train_sft/ops/zero.h"
#include "unit/ops/check.h"

namespace train_sft::ops {
namespace {

at::Tensor product(int64_t N) {
  const at::Tensor out = at::empty({N, 96}, at::kFloat);
  linear_forward(out, random_tensor({N, 64}, 1, at::kFloat), random_tensor({64, 96}, 2, at::kFloat),
                 {}, WeightLayout::in_out);
  return out;
}

TEST(ThreadsTest, TeamGrowsAndShrinks) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor expected = product(500);
  for (int threads : {2, 5, 3, 8, 1, 2}) {
    at::set_num_threads(threads);
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(product(500).equal(expected)) << threads;
  }
  at::set_num_threads(before);
}

TEST(ThreadsTest, CallersOnSeveralThreadsTakeTurns) {
  const at::Tensor expected = product(400);
  std::vector<std::thread> callers;
  std::vector<int> wrong(3, 0);
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 30; ++i) wrong[c] += !product(400).equal(expected);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, std::vector<int>(3, 0));
}

TEST(ThreadsTest, ZeroClearsEveryByteAndNoOther) {
  for (int64_t n : {0, 1, 1000, 65536, 100003}) {
    const at::Tensor guarded = at::full({n + 2}, 7.5, at::kFloat);
    ops::zero(guarded.narrow(0, 1, n));
    EXPECT_EQ(guarded.to(at::kDouble).sum().item<double>(), 15.0) << n;
  }
}

}  // namespace
}  // namespace train_sft::ops

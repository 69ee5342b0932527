// Matrix products of every layout, instruction set and dtype against the reference.
#include <ATen/Parallel.h>

#include "train_sft/ops/linear.h"
#include "unit/ops/check.h"

namespace train_sft::ops {
namespace {

struct Products {
  at::Tensor out, grad_input, grad_weight;
};

Products products(int64_t N, int64_t I, int64_t O, WeightLayout layout, at::ScalarType dtype) {
  const bool in_out = layout == WeightLayout::in_out;
  const at::Tensor input = random_tensor({N, I}, 1, dtype), bias = random_tensor({O}, 2, dtype);
  const at::Tensor weight = random_tensor({in_out ? I : O, in_out ? O : I}, 3, dtype);
  const at::Tensor grad_out = random_tensor({N, O}, 4, dtype);
  Products p{at::full({N, O}, 9, dtype), random_tensor({N, I}, 5, dtype),
             random_tensor(weight.sizes().vec(), 6, at::kFloat)};
  linear_forward(p.out, input, weight, bias, layout);
  linear_backward_input(p.grad_input, grad_out, weight, layout, /*accumulate=*/true);
  linear_backward_weight(p.grad_weight, input, grad_out, layout);
  return p;
}

// The last ones have more than two blocks of k, in float and in bfloat16, under whole and cut
// tiles.
const int64_t kShapes[][3] = {{1, 1, 1},      {3, 5, 7},      {1, 128, 65},   {2, 300, 150},
                              {4, 131, 77},   {37, 53, 71},   {64, 65, 16},   {129, 34, 130},
                              {65, 1027, 33}, {1601, 20, 41}, {30, 17, 3100}, {40, 2048, 24},
                              {45, 3100, 70}, {65, 70, 3100}, {3100, 33, 70}};

void expect_like_reference(at::ScalarType dtype, double tolerance, double weight_tolerance) {
  for (const auto& [N, I, O] : kShapes) {
    for (WeightLayout layout : {WeightLayout::in_out, WeightLayout::out_in}) {
      Products expected;
      {
        KernelsOverride reference(Kernels::reference);
        expected = products(N, I, O, layout, dtype);
      }
      for_fast_kernels([&](const std::string& name) {
        const Products p = products(N, I, O, layout, dtype);
        const std::string where = fmt::format("{} [{}, {}, {}]", name, N, I, O);
        EXPECT_LT(relative_error(p.out, expected.out), tolerance) << where;
        EXPECT_LT(relative_error(p.grad_input, expected.grad_input), tolerance) << where;
        EXPECT_LT(relative_error(p.grad_weight, expected.grad_weight), weight_tolerance) << where;
      });
    }
  }
}

TEST(GemmTest, FloatIsLikeTheReference) {
  expect_like_reference(at::kFloat, 5e-6, 5e-6);
}

// Inputs are the same bfloat16 numbers; only the rounding of the result may differ (2^-8).
TEST(GemmTest, Bfloat16IsLikeTheReference) {
  expect_like_reference(at::kBFloat16, 4e-3, 5e-6);
}

TEST(GemmTest, BitsDoNotDependOnThreads) {
  for_fast_kernels([&](const std::string& name) {
    for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const int before = at::get_num_threads();
      at::set_num_threads(1);
      const Products one = products(300, 130, 90, WeightLayout::in_out, dtype);
      at::set_num_threads(2);
      const Products two = products(300, 130, 90, WeightLayout::in_out, dtype);
      at::set_num_threads(before);
      EXPECT_TRUE(one.out.equal(two.out)) << name;
      EXPECT_TRUE(one.grad_input.equal(two.grad_input)) << name;
      EXPECT_TRUE(one.grad_weight.equal(two.grad_weight)) << name;
    }
  });
}

TEST(GemmTest, NothingOutsideTheResultIsWritten) {
  for_fast_kernels([&](const std::string& name) {
    const int64_t N = 17, I = 19, O = 23;
    const at::Tensor guarded = at::full({3 * N * O}, 7.5, at::kFloat);
    linear_forward(guarded.narrow(0, N * O, N * O).view({N, O}),
                   random_tensor({N, I}, 1, at::kFloat), random_tensor({I, O}, 2, at::kFloat), {},
                   WeightLayout::in_out);
    EXPECT_TRUE(guarded.narrow(0, 0, N * O).eq(7.5).all().item<bool>()) << name;
    EXPECT_TRUE(guarded.narrow(0, 2 * N * O, N * O).eq(7.5).all().item<bool>()) << name;
  });
}

}  // namespace
}  // namespace train_sft::ops

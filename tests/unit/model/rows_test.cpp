#include "model/rows.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

TEST(RowsTest, ScatterUndoesGatherAndZeroesTheRest) {
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor all = at::arange(1, 31, dtype).view({6, 5});
    for (const std::vector<int32_t>& rows :
         {std::vector<int32_t>{0, 2, 5}, {1, 3, 4}, {3}, {0, 1, 2, 3, 4, 5}}) {
      const at::Tensor few = at::full({static_cast<int64_t>(rows.size()), 5}, 7, dtype);
      gather_rows(few, all, rows);
      for (size_t i = 0; i < rows.size(); ++i)
        EXPECT_TRUE(few[static_cast<int64_t>(i)].equal(all[rows[i]]));
      const at::Tensor back = at::full({6, 5}, 7, dtype);
      scatter_rows(back, few, rows);
      for (int32_t row = 0; row < 6; ++row) {
        const bool named = std::find(rows.begin(), rows.end(), row) != rows.end();
        EXPECT_TRUE(back[row].equal(named ? all[row] : at::full({5}, 0, dtype))) << row;
      }
    }
  }
}

TEST(RowsTest, RowsOutsideTheMatrixAreRefused) {
  const at::Tensor all = at::full({3, 2}, 1.0), few = at::full({1, 2}, 1.0);
  EXPECT_THROW(gather_rows(few, all, std::vector<int32_t>{3}), InternalError);
  EXPECT_THROW(scatter_rows(all, few, std::vector<int32_t>{0, 1}), InternalError);
}

}  // namespace
}  // namespace train_sft

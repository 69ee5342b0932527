#include "model/rows.h"

#include <cstring>

#include "train_sft/base/error.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft {
namespace {

size_t row_bytes(const at::Tensor& few, const at::Tensor& all, std::span<const int32_t> rows) {
  TRAIN_SFT_CHECK(few.size(0) == static_cast<int64_t>(rows.size()) && few.size(1) == all.size(1) &&
                      few.scalar_type() == all.scalar_type(),
                  "{} rows of {} into {}", rows.size(), all.size(0), few.size(0));
  TRAIN_SFT_CHECK(rows.empty() || (rows.front() >= 0 && rows.back() < all.size(0)),
                  "rows {} … {} of {}", rows.front(), rows.back(), all.size(0));
  return static_cast<size_t>(few.size(1)) * few.element_size();
}

}  // namespace

void gather_rows(const at::Tensor& out, const at::Tensor& in, std::span<const int32_t> rows) {
  const profile::Scope scope("gather and scatter");
  if (const ops::DeviceTable* device = ops::device_table(out))
    return device->gather_rows(out, in, rows.data(), static_cast<int64_t>(rows.size()));
  const size_t bytes = row_bytes(out, in, rows);
  auto* to = static_cast<char*>(out.data_ptr());
  const auto* from = static_cast<const char*>(in.const_data_ptr());
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(to + i * bytes, from + static_cast<size_t>(rows[i]) * bytes, bytes);
}

void scatter_rows(const at::Tensor& out, const at::Tensor& in, std::span<const int32_t> rows) {
  const profile::Scope scope("gather and scatter");
  if (const ops::DeviceTable* device = ops::device_table(out))
    return device->scatter_rows(out, in, rows.data(), static_cast<int64_t>(rows.size()));
  const size_t bytes = row_bytes(in, out, rows);
  auto* to = static_cast<char*>(out.data_ptr());
  const auto* from = static_cast<const char*>(in.const_data_ptr());
  size_t next = 0;  // first row not yet written
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<size_t>(rows[i]);
    std::memset(to + next * bytes, 0, (row - next) * bytes);
    std::memcpy(to + row * bytes, from + i * bytes, bytes);
    next = row + 1;
  }
  std::memset(to + next * bytes, 0, (static_cast<size_t>(out.size(0)) - next) * bytes);
}

}  // namespace train_sft

#include "train_sft/ops/embedding.h"

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

void check_indices(std::span<const int32_t> indices, int64_t rows, const char* what) {
  for (int32_t index : indices) {
    TRAIN_SFT_CHECK(index >= 0 && index < rows, "{} {} outside its table of {} rows", what, index,
                    rows);
  }
}

template <typename T>
void forward(T* out, const T* table, const T* position_table, std::span<const int32_t> tokens,
             std::span<const int32_t> positions, int64_t C) {
  for (size_t n = 0; n < tokens.size(); ++n) {
    const T* row = table + tokens[n] * C;
    for (int64_t c = 0; c < C; ++c) out[n * C + c] = row[c];
    if (position_table == nullptr) continue;
    const T* position_row = position_table + positions[n] * C;
    for (int64_t c = 0; c < C; ++c) out[n * C + c] = row[c] + position_row[c];
  }
}

template <typename T>
void backward(Accumulate<T>* grad_table, std::span<const int32_t> rows, const T* grad_out,
              int64_t C) {
  for (size_t n = 0; n < rows.size(); ++n) {
    Accumulate<T>* row = grad_table + rows[n] * C;
    for (int64_t c = 0; c < C; ++c) row[c] += static_cast<Accumulate<T>>(grad_out[n * C + c]);
  }
}

}  // namespace

void embedding_forward(const at::Tensor& out, const at::Tensor& table,
                       const at::Tensor& position_table, std::span<const int32_t> tokens,
                       std::span<const int32_t> positions) {
  const profile::Scope scope("embedding forward");
  if (const DeviceTable* device = device_table(out))
    return device->embedding_forward(out, table, position_table, tokens.data(), positions.data());
  const int64_t N = rows_of(out), C = columns_of(out);
  TRAIN_SFT_CHECK(static_cast<int64_t>(tokens.size()) == N, "{} tokens for {} rows", tokens.size(),
                  N);
  check_indices(tokens, rows_of(table), "token");
  if (position_table.defined()) {
    TRAIN_SFT_CHECK(positions.size() == tokens.size(), "{} positions for {} tokens",
                    positions.size(), tokens.size());
    check_indices(positions, rows_of(position_table), "position");
  }
  for_dtype(out.scalar_type(), [&]<typename T>() {
    const T* position_rows = position_table.defined()
                                 ? data_of<T>(position_table, rows_of(position_table) * C)
                                 : nullptr;
    T* x = data_of<T>(out, N * C);
    const T* rows = data_of<T>(table, rows_of(table) * C);
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        return fast->embedding_forward(raw(x), raw(rows), raw(position_rows), tokens.data(),
                                       positions.data(), N, C);
      }
    }
    forward<T>(x, rows, position_rows, tokens, positions, C);
  });
}

void embedding_backward(const at::Tensor& grad_table, const at::Tensor& grad_position_table,
                        const at::Tensor& grad_out, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, std::span<const int32_t> token_order,
                        std::span<const int32_t> position_order) {
  const profile::Scope scope("embedding backward");
  if (const DeviceTable* device = device_table(grad_out)) {
    if (grad_table.defined())
      device->embedding_backward(grad_table, grad_out, tokens.data(), token_order.data());
    if (grad_position_table.defined())
      device->embedding_backward(grad_position_table, grad_out, positions.data(),
                                 position_order.data());
    return;
  }
  const int64_t N = rows_of(grad_out), C = columns_of(grad_out);
  for_dtype(grad_out.scalar_type(), [&]<typename T>() {
    const T* grad = data_of<T>(grad_out, N * C);
    auto add = [&](const at::Tensor& tensor, std::span<const int32_t> rows, const char* what) {
      if (!tensor.defined()) return;
      TRAIN_SFT_CHECK(static_cast<int64_t>(rows.size()) == N, "{} {}s for {} rows", rows.size(),
                      what, N);
      check_indices(rows, rows_of(tensor), what);
      Accumulate<T>* to = data_of<Accumulate<T>>(tensor, rows_of(tensor) * C);
      if constexpr (has_fast<T>) {
        if (const auto* fast = fast_kernels<T>()) {
          return fast->add_to_rows(to, rows.data(), raw(grad), N, C);
        }
      }
      backward<T>(to, rows, grad, C);
    };
    add(grad_table, tokens, "token");
    add(grad_position_table, positions, "position");
  });
}

}  // namespace train_sft::ops

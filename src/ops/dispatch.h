// From tensors to typed pointers: dtype dispatch and the checks every op makes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <type_traits>

#include "train_sft/base/error.h"

namespace train_sft::ops {

using bf16 = c10::BFloat16;

// What a dtype's sums, statistics and weight gradients are kept in.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
constexpr at::ScalarType scalar_type = c10::CppTypeToScalarType<T>::value;

// Calls f.template operator()<T>() for the compute dtypes.
template <typename F>
decltype(auto) for_dtype(at::ScalarType type, F&& f) {
  switch (type) {
    case at::kDouble:
      return f.template operator()<double>();
    case at::kFloat:
      return f.template operator()<float>();
    case at::kBFloat16:
      return f.template operator()<bf16>();
    default:
      throw InternalError("ops compute in float64, float32 or bfloat16, not {}",
                          c10::toString(type));
  }
}

// The data of a contiguous tensor of exactly this dtype and size.
template <typename T>
T* data_of(const at::Tensor& tensor, int64_t numel) {
  TRAIN_SFT_CHECK(tensor.defined(), "undefined tensor");
  TRAIN_SFT_CHECK(tensor.scalar_type() == scalar_type<T>, "dtype {} where {} is expected",
                  c10::toString(tensor.scalar_type()), c10::toString(scalar_type<T>));
  TRAIN_SFT_CHECK(tensor.numel() == numel, "{} elements where {} are expected", tensor.numel(),
                  numel);
  TRAIN_SFT_CHECK(tensor.is_contiguous(), "tensor is not contiguous");
  return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
T* data_or_null(const at::Tensor& tensor, int64_t numel) {
  return tensor.defined() ? data_of<T>(tensor, numel) : nullptr;
}

inline int64_t rows_of(const at::Tensor& tensor) {
  TRAIN_SFT_CHECK(tensor.dim() == 2, "{} dimensions where 2 are expected", tensor.dim());
  return tensor.size(0);
}

inline int64_t columns_of(const at::Tensor& tensor) {
  TRAIN_SFT_CHECK(tensor.dim() == 2, "{} dimensions where 2 are expected", tensor.dim());
  return tensor.size(1);
}

}  // namespace train_sft::ops

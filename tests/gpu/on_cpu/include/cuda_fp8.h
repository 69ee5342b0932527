#pragma once

#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>

#include <algorithm>

#include "cuda_runtime.h"

enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum __nv_saturation_t { __NV_SATFINITE };

inline uint32_t __nv_cvt_float2_to_fp8x2(float2 two, __nv_saturation_t,
                                         __nv_fp8_interpretation_t interpretation) {
  const auto byte = [&](float x) -> uint32_t {
    if (interpretation == __NV_E4M3) return c10::Float8_e4m3fn(std::clamp(x, -448.0f, 448.0f)).x;
    return c10::Float8_e5m2(std::clamp(x, -57344.0f, 57344.0f)).x;
  };
  return byte(two.x) | byte(two.y) << 8;
}

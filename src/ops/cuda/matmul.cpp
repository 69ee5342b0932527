#include "ops/cuda/matmul.h"

#include <c10/util/Exception.h>
#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>

#include "ops/cuda/runtime.h"

namespace train_sft::ops::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, what, ": ", cublasLtGetStatusName(status), ", ",
              cublasLtGetStatusString(status));
}

cublasLtHandle_t handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate");
    return made;
  }();
  return handle;
}

template <typename T>
void set(cublasLtMatmulDesc_t descriptor, cublasLtMatmulDescAttributes_t attribute,
         const T& value) {
  check(cublasLtMatmulDescSetAttribute(descriptor, attribute, &value, sizeof value),
        "cublasLtMatmulDescSetAttribute");
}

// Powers of two up to 256, which algorithms may count on.
uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return address == 0 ? 256 : static_cast<uint32_t>(std::min<uintptr_t>(address & -address, 256));
}

bool is_fp8(cudaDataType_t type) {
  return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2;
}

// cuBLAS is column-major: out^T [N, M] = op(b)^T [N, K] · op(a)^T [K, M], so that our b is its A.
class Plan {
 public:
  explicit Plan(const Matmul& p) {
    check(cublasLtMatmulDescCreate(&descriptor_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(descriptor_, CUBLASLT_MATMUL_DESC_TRANSA, operation(p.b.transposed));
    set(descriptor_, CUBLASLT_MATMUL_DESC_TRANSB, operation(p.a.transposed));
    if (p.bias != nullptr) {
      set(descriptor_, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(descriptor_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, p.bias_type);
    }
    // Sums of e4m3 products, those of the forward, may be kept in fewer bits; gradients' may not.
    if (p.a.type == CUDA_R_8F_E4M3 && p.b.type == CUDA_R_8F_E4M3 && !p.accumulate)
      set(descriptor_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    set_pointers(p);
    a_ = layout(p.b.type, p.b.transposed ? p.K : p.N, p.b.transposed ? p.N : p.K, p.b.stride);
    b_ = layout(p.a.type, p.a.transposed ? p.M : p.K, p.a.transposed ? p.K : p.M, p.a.stride);
    out_ = layout(p.out_type, p.N, p.M, p.stride);
    choose(p);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(a_);
    cublasLtMatrixLayoutDestroy(b_);
    cublasLtMatrixLayoutDestroy(out_);
    cublasLtMatmulDescDestroy(descriptor_);
  }

  void run(const Matmul& p) {
    set_pointers(p);
    const float beta = p.accumulate ? 1.0f : 0.0f;
    const Runtime& r = runtime();
    check(cublasLtMatmul(handle(), descriptor_, &p.alpha, p.b.data, a_, p.a.data, b_, &beta, p.out,
                         out_, p.out, out_, &algorithm_, r.products.data,
                         static_cast<size_t>(r.products.bytes), r.stream),
          "cublasLtMatmul");
  }

 private:
  static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns,
                                       int64_t stride) {
    cublasLtMatrixLayout_t made = nullptr;
    check(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), stride),
          "cublasLtMatrixLayoutCreate");
    return made;
  }

  void set_pointers(const Matmul& p) {
    if (p.bias != nullptr) set(descriptor_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    if (p.b.scale != nullptr) set(descriptor_, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.b.scale);
    if (p.a.scale != nullptr) set(descriptor_, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.a.scale);
  }

  void choose(const Matmul& p) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
           static_cast<uint64_t>(runtime().products.bytes));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.out));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.out));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle(), descriptor_, a_, b_, out_, out_, preference, 1, &best, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS && found > 0, "cuBLASLt has no product of ", p.M,
                " × ", p.K, " and ", p.K, " × ", p.N, " (types ", p.a.type, ", ", p.b.type, " to ",
                p.out_type, "): ", cublasLtGetStatusName(status));
    algorithm_ = best.algo;
  }

  cublasLtMatmulDesc_t descriptor_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, out_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

auto key_of(const Matmul& p) {
  return std::make_tuple(p.M, p.N, p.K, p.stride, p.a.stride, p.b.stride, p.a.transposed,
                         p.b.transposed, p.a.type, p.b.type, p.out_type, p.bias != nullptr,
                         p.bias_type, p.accumulate, alignment(p.a.data), alignment(p.b.data),
                         alignment(p.out));
}

}  // namespace

void matmul(const Matmul& p) {
  if (p.M == 0 || p.N == 0) return;
  TORCH_CHECK(is_fp8(p.a.type) == is_fp8(p.b.type), "a product of 8 bits and more");
  // Never destroyed: the driver may be gone by then.
  static auto* plans = new std::map<decltype(key_of(p)), std::unique_ptr<Plan>>;
  std::unique_ptr<Plan>& plan = (*plans)[key_of(p)];
  if (!plan) plan = std::make_unique<Plan>(p);
  plan->run(p);
}

}  // namespace train_sft::ops::cuda

#include "train_sft/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/dispatch.h"
#include "ops/fast.h"
#include "ops/gemm.h"
#include "train_sft/base/profile.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

int64_t aligned(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// The pieces of the scratch for chunks of `rows`: gathered hidden states (their gradient takes
// their place) and logits. The gradient of a row of logits, in T, stands where the row began.
template <typename T>
struct Chunk {
  T* hidden;
  Accumulate<T>* logits;
  int64_t gradient_stride;

  static constexpr int64_t kGradientsALogit = sizeof(Accumulate<T>) / sizeof(T);

  static int64_t bytes(int64_t rows, int64_t C, int64_t V) {
    return aligned(rows * C * sizeof(T)) + aligned(rows * V * sizeof(Accumulate<T>));
  }
  Chunk(char* memory, int64_t rows, int64_t C, int64_t V) : gradient_stride(V * kGradientsALogit) {
    hidden = reinterpret_cast<T*>(memory);
    memory += aligned(rows * C * sizeof(T));
    logits = reinterpret_cast<Accumulate<T>*>(memory);
  }
  Operand<T> gradients(bool transposed) const {
    return {reinterpret_cast<const T*>(logits), gradient_stride, transposed};
  }
};

template <typename T>
int64_t chunk_rows(int64_t bytes, int64_t C, int64_t V) {
  int64_t low = 0, high = bytes / (C * static_cast<int64_t>(sizeof(T))) + 1;
  while (high - low > 1) {  // the largest number of rows that fits
    const int64_t middle = (low + high) / 2;
    (Chunk<T>::bytes(middle, C, V) <= bytes ? low : high) = middle;
  }
  TRAIN_SFT_CHECK(low > 0, "{} bytes of scratch hold no row of a vocabulary of {}", bytes, V);
  return low;
}

struct RowLoss {
  double loss;
  bool correct;
};

// −log softmax(logits)[target]; with `gradient`, weight * (softmax − one-hot) over the logits.
template <typename T>
RowLoss softmax_row(Accumulate<T>* logits, int32_t target, float weight, int64_t V, bool gradient) {
  using A = Accumulate<T>;
  const int64_t best = std::max_element(logits, logits + V) - logits;
  const A maximum = logits[best], target_logit = logits[target];
  A sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(logits[v] - maximum);
  if (gradient) {
    const A factor = A(weight) / sum;
    std::vector<T> grad(V);
    for (int64_t v = 0; v < V; ++v) {
      const A onehot = v == target ? A(weight) : A(0);
      grad[v] = static_cast<T>(std::exp(logits[v] - maximum) * factor - onehot);
    }
    std::memcpy(static_cast<void*>(logits), grad.data(), V * sizeof(T));
  }
  const double loss = std::log(static_cast<double>(sum)) + static_cast<double>(maximum) -
                      static_cast<double>(target_logit);
  return {loss, best == target};
}

template <typename T>
class LinearCrossEntropy {
 public:
  using A = Accumulate<T>;
  T* grad_hidden;
  A* grad_weight;
  const T* hidden;
  const T* weight;
  std::span<const int32_t> targets, learned;
  std::span<const float> weights;
  int64_t N, C, V;

  CrossEntropySums run(char* scratch, int64_t scratch_bytes) {
    CrossEntropySums sums;
    const int64_t L = static_cast<int64_t>(learned.size());
    if (L > 0) {
      const int64_t rows = std::min(chunk_rows<T>(scratch_bytes, C, V), L);
      const Chunk<T> chunk(scratch, rows, C, V);
      for (int64_t first = 0; first < L; first += rows) {
        run_chunk(chunk, first, std::min(rows, L - first), sums);
      }
    }
    if (grad_hidden != nullptr) zero_rows(written_, N);
    return sums;
  }

 private:
  int64_t written_ = 0;  // rows of grad_hidden that are final

  float weight_of(int64_t l) const { return weights.empty() ? 1.0f : weights[l]; }
  void zero_rows(int64_t begin, int64_t end) {
    std::fill(grad_hidden + begin * C, grad_hidden + end * C, T(0));
  }

  void run_chunk(const Chunk<T>& chunk, int64_t first, int64_t rows, CrossEntropySums& sums) {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(chunk.hidden + r * C, hidden + learned[first + r] * C, C * sizeof(T));
    }
    gemm<T, A>(chunk.logits, V, {rows, V, C}, {chunk.hidden, C}, {weight, C, true}, nullptr, false);
    softmax_chunk(chunk, grad_hidden != nullptr || grad_weight != nullptr, first, rows, sums);
    if (grad_weight != nullptr) {
      gemm<T, A>(grad_weight, C, {V, C, rows}, chunk.gradients(true), {chunk.hidden, C}, nullptr,
                 true);
    }
    if (grad_hidden != nullptr) {
      gemm<T, T>(chunk.hidden, C, {rows, C, V}, chunk.gradients(false), {weight, C}, nullptr,
                 false);
      scatter(chunk.hidden, first, rows);
    }
  }

  void softmax_chunk(const Chunk<T>& chunk, bool gradients, int64_t first, int64_t rows,
                     CrossEntropySums& sums) {
    auto add = [&](int64_t r, double loss, bool correct) {
      const float weight = weight_of(first + r);
      if (weight == 0.0F) return;  // padding
      sums.loss += weight * loss;
      sums.weight += weight;
      sums.tokens += 1;
      sums.correct += correct;
    };
    if constexpr (has_fast<T>) {
      if (const auto* fast = fast_kernels<T>()) {
        thread_local std::vector<int32_t> row_targets;
        thread_local std::vector<float> row_weights;
        thread_local std::vector<simd::RowLoss> losses;
        row_targets.resize(rows);
        row_weights.resize(rows);
        losses.resize(rows);
        for (int64_t r = 0; r < rows; ++r) {
          row_targets[r] = targets[learned[first + r]];
          row_weights[r] = weight_of(first + r);
        }
        fast->softmax_loss(chunk.logits, row_targets.data(), row_weights.data(), losses.data(),
                           rows, V, gradients);
        for (int64_t r = 0; r < rows; ++r) {
          const simd::RowLoss& row = losses[r];
          const double maximum = row.maximum, target_logit = row.target_logit;
          add(r, std::log(static_cast<double>(row.sum)) + maximum - target_logit, row.correct);
        }
        return;
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const RowLoss row = softmax_row<T>(chunk.logits + r * V, targets[learned[first + r]],
                                         weight_of(first + r), V, gradients);
      add(r, row.loss, row.correct);
    }
  }

  // Rows between learned ones are zeroed as they are passed, not before: grad_hidden may be hidden.
  void scatter(const T* rows_of_chunk, int64_t first, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t n = learned[first + r];
      zero_rows(written_, n);
      std::memcpy(grad_hidden + n * C, rows_of_chunk + r * C, C * sizeof(T));
      written_ = n + 1;
    }
  }
};

void check_rows(std::span<const int32_t> targets, std::span<const int32_t> learned, int64_t N,
                int64_t V) {
  int64_t previous = -1;
  for (int32_t n : learned) {
    TRAIN_SFT_CHECK(n > previous && n < N, "learned row {} after {} of {}", n, previous, N);
    TRAIN_SFT_CHECK(targets[n] >= 0 && targets[n] < V, "target {} of row {}, vocabulary {}",
                    targets[n], n, V);
    previous = n;
  }
}

}  // namespace

int64_t linear_cross_entropy_scratch_bytes(at::ScalarType dtype, int64_t chunk, int64_t C,
                                           int64_t V) {
  return for_dtype(dtype, [&]<typename T>() { return Chunk<T>::bytes(chunk, C, V); });
}

CrossEntropySums linear_cross_entropy(const at::Tensor& grad_hidden, const at::Tensor& grad_weight,
                                      const at::Tensor& hidden, const at::Tensor& weight,
                                      std::span<const int32_t> targets,
                                      std::span<const int32_t> learned,
                                      std::span<const float> weights, const at::Tensor& scratch,
                                      DeviceSums* sums) {
  const profile::Scope scope("output layer and cross-entropy");
  if (const DeviceTable* device = device_table(hidden)) {
    TRAIN_SFT_CHECK(
        static_cast<int64_t>(targets.size()) == rows_of(hidden) &&
            weights.size() == targets.size() && sums != nullptr,
        "on a device every row is learned and has a weight: {} rows, {} targets, {} weights",
        rows_of(hidden), targets.size(), weights.size());
    device->linear_cross_entropy(sums, grad_hidden, grad_weight, hidden, weight, targets.data(),
                                 weights.data(), scratch);
    return {};
  }
  const int64_t N = rows_of(hidden), C = columns_of(hidden), V = rows_of(weight);
  TRAIN_SFT_CHECK(static_cast<int64_t>(targets.size()) == N, "{} targets for {} rows",
                  targets.size(), N);
  TRAIN_SFT_CHECK(weights.empty() || weights.size() == learned.size(), "{} weights for {} targets",
                  weights.size(), learned.size());
  check_rows(targets, learned, N, V);
  return for_dtype(hidden.scalar_type(), [&]<typename T>() {
    LinearCrossEntropy<T> op;
    op.grad_hidden = data_or_null<T>(grad_hidden, N * C);
    op.grad_weight = data_or_null<Accumulate<T>>(grad_weight, V * C);
    op.hidden = data_of<T>(hidden, N * C);
    op.weight = data_of<T>(weight, V * C);
    op.targets = targets;
    op.learned = learned;
    op.weights = weights;
    op.N = N;
    op.C = C;
    op.V = V;
    return op.run(static_cast<char*>(scratch.data_ptr()), scratch.nbytes());
  });
}

}  // namespace train_sft::ops

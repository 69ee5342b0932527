// Softmax and cross-entropy over rows of logits, whose gradients take their place. A block a row:
// one pass for maximum and sum, one for the gradient, which finds the row in the L2 cache.
#include "ops/cuda/vector.cuh"

namespace train_sft::ops::cuda {
namespace {

constexpr int kThreads = 512;
constexpr float kLowest = -3.402823466e38f;

struct RowResult {
  double loss;  // weighted
  double weight, tokens, correct;
};

// Sums of exp(x - maximum), which can be joined.
struct Softmax {
  float maximum = kLowest, sum = 0;
  __device__ void add(const Softmax& o) {
    const float highest = fmaxf(maximum, o.maximum);
    sum = sum * __expf(maximum - highest) + o.sum * __expf(o.maximum - highest);
    maximum = highest;
  }
};

// Over the block, in a fixed order, in every thread.
__device__ Softmax block_softmax(Softmax own) {
  __shared__ Softmax shared[kThreads / kWarp];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    Softmax other;
    other.maximum = __shfl_xor_sync(kAllLanes, own.maximum, offset);
    other.sum = __shfl_xor_sync(kAllLanes, own.sum, offset);
    own.add(other);
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = own;
  __syncthreads();
  Softmax total = shared[0];
  for (int w = 1; w < kThreads / kWarp; ++w) total.add(shared[w]);
  return total;
}

template <typename T, int W>
__global__ void __launch_bounds__(kThreads) softmax_loss_kernel(SoftmaxLoss l, RowResult* results) {
  const int64_t row = blockIdx.x;
  T* logits = static_cast<T*>(l.logits) + row * l.stride;
  const int vocabulary = static_cast<int>(l.vocabulary), target = l.targets[row];
  const float weight = l.weights[row];
  if (weight == 0) {  // padding: its logits may be anything
    if (threadIdx.x == 0) results[row] = {};
    if (!l.gradients) return;
    for (int v = threadIdx.x; v < vocabulary; v += kThreads) logits[v] = static_cast<T>(0.0f);
    return;
  }
  const int whole = vocabulary / W * W;  // what stands over is done element by element
  const float at_target = static_cast<float>(logits[target]);
  Softmax own;
  bool beaten = false;
  const auto see = [&](float x, int v) {
    beaten |= v < target ? x >= at_target : x > at_target;  // the first of equals is the arg max
  };
  for (int v = threadIdx.x * W; v < whole; v += kThreads * W) {
    float x[W];
    load<T, W>(x, logits + v);
    float highest = own.maximum;
#pragma unroll
    for (int e = 0; e < W; ++e) {
      highest = fmaxf(highest, x[e]);
      see(x[e], v + e);
    }
    own.sum *= __expf(own.maximum - highest);
#pragma unroll
    for (int e = 0; e < W; ++e) own.sum += __expf(x[e] - highest);
    own.maximum = highest;
  }
  for (int v = whole + threadIdx.x; v < vocabulary; v += kThreads) {
    const float x = static_cast<float>(logits[v]);
    see(x, v);
    own.add({x, 1.0f});
  }
  const Softmax all = block_softmax(own);
  const int any_beats = __syncthreads_or(beaten);  // and every thread has read the target's logit
  if (threadIdx.x == 0) {
    const double loss = log(static_cast<double>(all.sum)) + static_cast<double>(all.maximum) -
                        static_cast<double>(at_target);
    results[row] = {weight * loss, weight, 1.0, any_beats != 0 ? 0.0 : 1.0};
  }
  if (!l.gradients) return;
  const float factor = weight / all.sum;
  for (int v = threadIdx.x * W; v < whole; v += kThreads * W) {
    float x[W];
    load<T, W>(x, logits + v);
#pragma unroll
    for (int e = 0; e < W; ++e)
      x[e] = __expf(x[e] - all.maximum) * factor - (v + e == target ? weight : 0.0f);
    store<T, W>(logits + v, x);
  }
  for (int v = whole + threadIdx.x; v < vocabulary; v += kThreads) {
    const float x = __expf(static_cast<float>(logits[v]) - all.maximum) * factor;
    logits[v] = static_cast<T>(x - (v == target ? weight : 0.0f));
  }
}

// One block, in a fixed order.
__global__ void __launch_bounds__(kThreads)
    add_results_kernel(DeviceSums* sums, const RowResult* results, int64_t rows) {
  __shared__ RowResult shared[kThreads / kWarp];
  RowResult own{};
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) {
    own.loss += results[r].loss;
    own.weight += results[r].weight;
    own.tokens += results[r].tokens;
    own.correct += results[r].correct;
  }
  own = {lanes_sum(own.loss), lanes_sum(own.weight), lanes_sum(own.tokens), lanes_sum(own.correct)};
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  RowResult total{};
  for (int w = 0; w < kThreads / kWarp; ++w) {
    total.loss += shared[w].loss;
    total.weight += shared[w].weight;
    total.tokens += shared[w].tokens;
    total.correct += shared[w].correct;
  }
  sums->loss += total.loss;
  sums->weight += total.weight;
  sums->tokens += total.tokens;
  sums->correct += total.correct;
}

}  // namespace

int64_t softmax_loss_workspace(int64_t rows) {
  return rows * static_cast<int64_t>(sizeof(RowResult));
}

void softmax_loss(Type type, DeviceSums* sums, const SoftmaxLoss& loss, Workspace workspace,
                  cudaStream_t stream) {
  if (loss.rows == 0) return;
  auto* results = static_cast<RowResult*>(workspace.data);
  const auto blocks = static_cast<uint32_t>(loss.rows);
  dispatch(type, loss.stride % 8 == 0 && aligned(loss.logits), [&]<typename T, int W>() {
    softmax_loss_kernel<T, W><<<blocks, kThreads, 0, stream>>>(loss, results);
  });
  add_results_kernel<<<1, kThreads, 0, stream>>>(sums, results, loss.rows);
}

}  // namespace train_sft::ops::cuda

// One block of memory for all activations. Buffers are declared with the moments at which they are
// needed; those that are never needed together share the same bytes. Tensors are views of the
// block, so a step allocates no tensor storage, and a smaller micro-batch only narrows the views.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace train_sft {

// The bytes themselves, shared by several plans (training, inference) of which one is in use.
class ArenaStorage {
 public:
  explicit ArenaStorage(uint64_t limit_bytes, c10::Device device = c10::kCPU)
      : limit_(limit_bytes), device_(device) {}
  // Grows to at least `bytes`; contents are lost. Throws ResourceError over the limit (nothing is
  // changed) or when the machine has no more memory.
  void reserve(uint64_t bytes);
  void release();  // the memory, for a smaller plan
  uint64_t bytes() const { return bytes_; }
  c10::Device device() const { return device_; }
  const void* storage_base() const { return storage_ ? storage_.data() : nullptr; }
  const at::Storage& storage() const { return storage_; }

 private:
  uint64_t limit_;
  c10::Device device_;
  uint64_t bytes_ = 0;
  at::Storage storage_;
};

// Of a buffer, for a micro-batch of so many tokens and learned targets; must not shrink as either
// grows.
struct BufferShape {
  int64_t rows = 0;
  int64_t columns = 0;  // 0: one dimension
  int64_t numel() const { return columns > 0 ? rows * columns : rows; }
};
using ShapeOf = std::function<BufferShape(int64_t tokens, int64_t learned)>;

class ArenaPlan {
 public:
  explicit ArenaPlan(std::shared_ptr<ArenaStorage> storage)
      : storage_(std::move(storage)), device_(storage_ ? storage_->device() : c10::kCPU) {}
  ArenaPlan(const ArenaPlan&) = delete;
  ArenaPlan& operator=(const ArenaPlan&) = delete;

  // Declares a buffer that holds its contents from moment `first` to moment `last`. The tensor is
  // valid after bind(), for as long as the plan lives.
  const at::Tensor& add(std::string name, at::ScalarType dtype, ShapeOf shape, int first, int last);

  // Points every tensor at the block, for a micro-batch of `tokens` of which `learned` have a
  // learned target. Plans anew only for more tokens than ever before.
  void bind(int64_t tokens, int64_t learned);

  // As if nothing had been bound yet: after the storage was released.
  void forget() {
    capacity_ = 0;
    planned_bytes_ = 0;
    tokens_ = learned_ = -1;
    bound_to_ = nullptr;
  }

  // Places the buffers for so many tokens without allocating: the block's size.
  uint64_t plan(int64_t tokens) {
    if (tokens > capacity_) place(tokens);
    return planned_bytes_;
  }
  // Gives memory that no buffer needs after `moment` back to the system until the next bind(), at
  // most about `most` bytes of it; returns how many.
  uint64_t give_back(int moment, uint64_t most);
  // How many there are.
  uint64_t finished_bytes(int moment) const;

  uint64_t bytes() const { return planned_bytes_; }
  int64_t capacity() const { return capacity_; }
  // Sum of the buffers' sizes: what they would take without sharing.
  uint64_t bytes_unshared() const;

 private:
  struct Buffer {
    std::string name;
    at::Tensor tensor;
    at::ScalarType dtype;
    ShapeOf shape;
    int first, last;
    uint64_t offset = 0;  // bytes
  };
  uint64_t size_of(const Buffer& buffer, int64_t tokens) const;
  void place(int64_t tokens);
  void find_last_uses(int64_t tokens);
  void grow(int64_t tokens);

  std::shared_ptr<ArenaStorage> storage_;
  c10::Device device_;
  std::deque<Buffer> buffers_;  // a deque: references to the tensors stay valid
  int64_t capacity_ = 0, tokens_ = -1, learned_ = -1;
  uint64_t planned_bytes_ = 0;
  // Of each piece of the block (kPiece bytes): the last moment at which it is needed, and whether
  // it was given back.
  std::vector<int> last_use_;
  std::vector<bool> given_back_;
  const void* bound_to_ = nullptr;
};

}  // namespace train_sft

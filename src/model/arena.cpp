#include "model/arena.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <new>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/profile.h"
#include "train_sft/base/progress.h"

namespace train_sft {
namespace {

constexpr uint64_t kAlignment = 64;             // a cache line, and the widest vector
constexpr uint64_t kPiece = uint64_t{2} << 20;  // of memory given back: a huge page

uint64_t aligned(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

c10::DataPtr allocate(uint64_t bytes, c10::Device device) {
  if (device.is_cpu()) {
    void* begin = allocate_zero_pages(bytes);
    if (begin == nullptr) throw std::bad_alloc();
    return {begin, begin, &free_pages, at::kCPU};
  }
  const auto options = at::TensorOptions().dtype(at::kByte).device(device);
  return at::empty({static_cast<int64_t>(bytes)}, options)
      .storage()
      .set_data_ptr(at::DataPtr(nullptr, device));
}

}  // namespace

void ArenaStorage::reserve(uint64_t bytes) {
  if (bytes <= bytes_) return;
  if (limit_ > 0 && bytes > limit_) {
    throw ResourceError(
        "the activations of this micro-batch need {}, but the limit (max_memory) leaves {}; use a "
        "smaller batch_size or block_size, --recompute block, or raise max_memory",
        human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(limit_)));
  }
  // The tensors of all plans share this storage: the old block goes before the new one comes.
  release();
  try {
    storage_.set_data_ptr_noswap(allocate(bytes, device_));
  } catch (const std::exception&) {
    throw ResourceError(
        "the {} has no {} for the activations of this micro-batch; use a smaller batch_size or "
        "block_size, or --recompute block",
        device_.is_cpu() ? "machine" : "device", human_bytes(static_cast<double>(bytes)));
  }
  storage_.set_nbytes(bytes);
  bytes_ = bytes;
}

void ArenaStorage::release() {
  if (!storage_)
    storage_ = at::Storage(c10::Storage::use_byte_size_t(), 0, at::DataPtr(nullptr, device_),
                           /*allocator=*/nullptr, /*resizable=*/false);
  storage_.set_data_ptr_noswap(at::DataPtr(nullptr, device_));
  storage_.set_nbytes(0);
  bytes_ = 0;
}

const at::Tensor& ArenaPlan::add(std::string name, at::ScalarType dtype, ShapeOf shape, int first,
                                 int last) {
  TRAIN_SFT_CHECK(first <= last, "buffer {} ends before it begins", name);
  TRAIN_SFT_CHECK(capacity_ == 0, "buffer {} declared after the plan was made", name);
  buffers_.push_back({std::move(name),
                      at::empty({0}, at::TensorOptions().dtype(dtype).device(device_)), dtype,
                      std::move(shape), first, last});
  return buffers_.back().tensor;
}

uint64_t ArenaPlan::size_of(const Buffer& buffer, int64_t tokens) const {
  return aligned(static_cast<uint64_t>(buffer.shape(tokens, tokens).numel()) *
                 c10::elementSize(buffer.dtype));
}

uint64_t ArenaPlan::bytes_unshared() const {
  uint64_t sum = 0;
  for (const Buffer& buffer : buffers_) sum += size_of(buffer, capacity_);
  return sum;
}

// Greedy by size: the largest buffer first, each at the lowest offset where no buffer needed at the
// same time stands (Pisarchyk & Lee, "Efficient memory management for deep neural net inference",
// 2020, find it within a few percent of the lower bound).
void ArenaPlan::place(int64_t tokens) {
  std::vector<Buffer*> order;
  for (Buffer& buffer : buffers_) order.push_back(&buffer);
  std::stable_sort(order.begin(), order.end(), [&](const Buffer* a, const Buffer* b) {
    return size_of(*a, tokens) > size_of(*b, tokens);
  });
  planned_bytes_ = 0;
  std::vector<Buffer*> placed;  // by offset
  for (Buffer* buffer : order) {
    const uint64_t size = size_of(*buffer, tokens);
    uint64_t offset = 0;
    for (const Buffer* other : placed) {
      if (other->last < buffer->first || buffer->last < other->first) continue;
      if (other->offset >= offset + size) break;
      offset = std::max(offset, other->offset + size_of(*other, tokens));
    }
    buffer->offset = offset;
    planned_bytes_ = std::max(planned_bytes_, offset + size);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), buffer,
                         [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
        buffer);
  }
  capacity_ = tokens;
  find_last_uses(tokens);
}

void ArenaPlan::find_last_uses(int64_t tokens) {
  last_use_.assign(planned_bytes_ / kPiece, -1);  // what stands over is not given back
  given_back_.assign(last_use_.size(), false);
  for (const Buffer& buffer : buffers_) {
    const uint64_t size = size_of(buffer, tokens);
    for (uint64_t piece = buffer.offset / kPiece;
         piece < last_use_.size() && piece * kPiece < buffer.offset + size; ++piece)
      last_use_[piece] = std::max(last_use_[piece], buffer.last);
  }
}

uint64_t ArenaPlan::finished_bytes(int moment) const {
  const auto count =
      std::count_if(last_use_.begin(), last_use_.end(), [&](int last) { return last <= moment; });
  return static_cast<uint64_t>(count) * kPiece;
}

uint64_t ArenaPlan::give_back(int moment, uint64_t most) {
  const profile::Scope scope("memory given back");
  auto* base = static_cast<char*>(storage_->storage().mutable_data());
  uint64_t given = 0;
  for (size_t piece = 0; piece < last_use_.size() && given < most; ++piece) {
    const size_t first = piece;
    while (piece < last_use_.size() && given < most && last_use_[piece] <= moment &&
           !given_back_[piece]) {
      given_back_[piece++] = true;
      given += kPiece;
    }
    if (piece > first) {
      train_sft::give_back(whole_pages(base + first * kPiece, (piece - first) * kPiece));
    }
  }
  return given;
}

// A micro-batch that is refused leaves the plan as it was, for a smaller one.
void ArenaPlan::grow(int64_t tokens) {
  const int64_t before = capacity_;
  if (tokens > capacity_) place(tokens);
  try {
    storage_->reserve(planned_bytes_);
  } catch (const ResourceError&) {
    if (tokens > before) place(before);
    throw;
  }
}

void ArenaPlan::bind(int64_t tokens, int64_t learned) {
  TRAIN_SFT_CHECK(learned <= tokens, "{} learned of {} tokens", learned, tokens);
  grow(tokens);
  given_back_.assign(given_back_.size(), false);
  const void* base = storage_->storage().data();
  const bool moved = base != bound_to_;
  if (!moved && tokens == tokens_ && learned == learned_) return;
  for (Buffer& buffer : buffers_) {
    const BufferShape shape = buffer.shape(tokens, learned);
    at::TensorImpl* impl = buffer.tensor.unsafeGetTensorImpl();
    if (moved) impl->set_storage_keep_dtype(storage_->storage());
    impl->set_storage_offset(static_cast<int64_t>(buffer.offset / c10::elementSize(buffer.dtype)));
    const int64_t sizes[] = {shape.rows, shape.columns};
    impl->set_sizes_contiguous({sizes, shape.columns > 0 ? size_t{2} : size_t{1}});
  }
  bound_to_ = base;
  tokens_ = tokens;
  learned_ = learned;
}

}  // namespace train_sft

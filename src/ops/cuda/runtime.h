// The device of this process as the glue sees it: its stream, its workspaces.
#pragma once

#include <ATen/core/Tensor.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/launch.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops::cuda {

struct Runtime {
  int device = -1;
  cudaStream_t stream = nullptr;
  Workspace workspace;  // of our kernels
  Workspace products;   // of cuBLAS
  bool deterministic = true;
  at::Tensor memory_of_workspaces;
};

// Throws c10::Error before open().
Runtime& runtime();

int device_count(char* why, uint64_t size);
// Fills the runtime; false with the reason in why.
bool open_device(int device, char* why, uint64_t size);
void device_properties(int device, DevicePlugin::Properties* out);

// The part of the table that computes nothing (runtime.cpp), and the rest.
void fill_runtime(DeviceTable& table);
void fill_elementwise(DeviceTable& table);
void fill_attention(DeviceTable& table);
void fill_products(DeviceTable& table);
void fill_update(DeviceTable& table);

// ---- tensors to what kernels take, checked
Type type_of(const at::Tensor& tensor);
// The data of a contiguous tensor of this device with so many elements of this type.
void* data(const at::Tensor& tensor, at::ScalarType type, int64_t numel);
inline void* data_or_null(const at::Tensor& tensor, at::ScalarType type, int64_t numel) {
  return tensor.defined() ? data(tensor, type, numel) : nullptr;
}
inline float* floats(const at::Tensor& tensor, int64_t numel) {
  return static_cast<float*>(data(tensor, at::kFloat, numel));
}
inline float* floats_or_null(const at::Tensor& tensor, int64_t numel) {
  return tensor.defined() ? floats(tensor, numel) : nullptr;
}
bool is_here(const at::Tensor& tensor);
// Throws what the last launch reported.
void check_launch();

}  // namespace train_sft::ops::cuda

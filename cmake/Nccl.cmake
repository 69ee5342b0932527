# NCCL between the GPUs of several processes: part of the CUDA plugin, compiled wherever its headers are
# (they come with LibTorch's wheel and the CUDA toolkit), so that it cannot rot unseen.
find_path(NCCL_INCLUDE nccl.h HINTS ${TORCH_ROOT}/../nvidia/nccl/include)
find_path(CUDA_INCLUDE cuda_runtime_api.h HINTS $ENV{CUDA_HOME}/include /usr/local/cuda/include
          ${TORCH_ROOT}/../nvidia/cu13/include)
set(missing "")
if(TRAIN_SFT_CUDA STREQUAL "OFF")
  set(missing "TRAIN_SFT_CUDA is OFF")
elseif(NOT NCCL_INCLUDE)
  set(missing "no nccl.h")
elseif(NOT CUDA_INCLUDE)
  set(missing "no CUDA headers")
elseif(NOT EXISTS ${TORCH_ROOT}/lib/libtorch_cuda.so)
  set(missing "this LibTorch has no libtorch_cuda.so")
endif()
if(missing)
  message(STATUS "NCCL: ${missing}; left out")
  return()
endif()
message(STATUS "NCCL: ${NCCL_INCLUDE}")

add_library(train_sft_nccl OBJECT src/collective/cuda/nccl.cpp)
set_target_properties(train_sft_nccl PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
target_include_directories(train_sft_nccl PRIVATE src)
target_compile_definitions(train_sft_nccl PRIVATE USE_C10D_NCCL)
target_compile_options(train_sft_nccl PRIVATE
  "SHELL:-idirafter ${TORCH_ROOT}/include/torch/csrc/api/include"
  "SHELL:-idirafter ${NCCL_INCLUDE}" "SHELL:-idirafter ${CUDA_INCLUDE}")
target_link_libraries(train_sft_nccl PRIVATE train_sft_warnings torch_headers fmt::fmt)
if(TARGET train_sft_cuda)
  target_sources(train_sft_cuda PRIVATE $<TARGET_OBJECTS:train_sft_nccl>)
endif()

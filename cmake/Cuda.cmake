# The CUDA plugin, libtrain_sft_cuda.so, beside the program, which loads it when a GPU is asked for.
# Built where nvcc is; without it everything else is built all the same.
set(TRAIN_SFT_CUDA AUTO CACHE STRING "Build the CUDA plugin: AUTO (where nvcc is), ON, OFF")
set(TRAIN_SFT_CUDA_ARCHITECTURES "80;89;90a;ptx" CACHE STRING
    "What the kernels are compiled for; ptx: for GPUs to come")
find_program(NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)

set(missing "")
if(NOT NVCC)
  set(missing "nvcc not found (CUDA 13; -DNVCC=<path>)")
elseif(NOT EXISTS ${TORCH_ROOT}/lib/libtorch_cuda.so)
  set(missing "this LibTorch has no libtorch_cuda.so")
else()
  get_filename_component(cuda_root ${NVCC} DIRECTORY)
  get_filename_component(cuda_root ${cuda_root} DIRECTORY)
  # Those that LibTorch itself loads, so that there is one of each in the process.
  set(cuda_libraries_of_torch ${TORCH_ROOT}/../nvidia/cu13/lib)
  find_library(CUDART_LIBRARY NAMES libcudart.so.13 HINTS ${cuda_libraries_of_torch}
               ${cuda_root}/lib64 NO_DEFAULT_PATH)
  find_library(CUBLASLT_LIBRARY NAMES libcublasLt.so.13 HINTS ${cuda_libraries_of_torch}
               ${cuda_root}/lib64 NO_DEFAULT_PATH)
  if(NOT CUDART_LIBRARY OR NOT CUBLASLT_LIBRARY)
    set(missing "no libcudart.so.13 and libcublasLt.so.13 beside LibTorch or nvcc")
  endif()
endif()
if(TRAIN_SFT_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off")
  return()
elseif(missing)
  if(NOT TRAIN_SFT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "TRAIN_SFT_CUDA=${TRAIN_SFT_CUDA}: ${missing}")
  endif()
  message(STATUS "CUDA: ${missing}; built for CPUs")
  return()
endif()
message(STATUS "CUDA: ${NVCC} for ${TRAIN_SFT_CUDA_ARCHITECTURES}")

set(nvcc_targets "")
foreach(architecture ${TRAIN_SFT_CUDA_ARCHITECTURES})
  if(architecture STREQUAL "ptx")
    list(APPEND nvcc_targets -gencode=arch=compute_90,code=compute_90)
  else()
    list(APPEND nvcc_targets -gencode=arch=compute_${architecture},code=sm_${architecture})
  endif()
endforeach()

# Kernels by nvcc, which sees no header of torch: some seconds a file. What ptxas says of registers
# and spills stands beside each object (scripts/kernel_report.py reads it).
file(GLOB kernel_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/ops/cuda/*.cu)
set(kernel_folder ${CMAKE_BINARY_DIR}/cuda)
file(MAKE_DIRECTORY ${kernel_folder})
set(kernel_objects "")
foreach(file ${kernel_files})
  get_filename_component(name ${file} NAME_WE)
  set(object ${kernel_folder}/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    BYPRODUCTS ${kernel_folder}/${name}.ptxas
    COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/cmake/nvcc.sh ${kernel_folder}/${name}.ptxas ${CCACHE} ${NVCC}
            -c ${file} -o ${object} -MD -MF ${object}.d -std=c++20 -O3 -lineinfo -Xptxas -v
            -Werror all-warnings -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra
            -I${CMAKE_CURRENT_SOURCE_DIR}/src -I${CMAKE_CURRENT_SOURCE_DIR}/include ${nvcc_targets}
    DEPENDS ${file} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/nvcc.sh
    DEPFILE ${object}.d
    COMMENT "CUDA kernels: ${name}" VERBATIM)
  list(APPEND kernel_objects ${object})
endforeach()

file(GLOB plugin_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/ops/cuda/*.cpp)
add_library(train_sft_cuda SHARED ${plugin_files} ${kernel_objects})
set_target_properties(train_sft_cuda PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
  CXX_VISIBILITY_PRESET hidden
  BUILD_RPATH "${TORCH_ROOT}/lib;${cuda_libraries_of_torch}")
target_include_directories(train_sft_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src
                                                  ${CMAKE_CURRENT_SOURCE_DIR}/include)
target_compile_options(train_sft_cuda PRIVATE "SHELL:-idirafter ${cuda_root}/include")
train_sft_together(train_sft_cuda 8)
# DT_RPATH, not DT_RUNPATH: what libtorch_cuda loads is found through it, too.
target_link_options(train_sft_cuda PRIVATE -Wl,--disable-new-dtags -Wl,--no-as-needed
                                           -Wl,--allow-shlib-undefined)
target_link_libraries(train_sft_cuda PRIVATE train_sft_warnings torch_headers torch_cpu torch_c10
  ${TORCH_ROOT}/lib/libtorch_cuda.so ${TORCH_ROOT}/lib/libc10_cuda.so ${CUDART_LIBRARY}
  ${CUBLASLT_LIBRARY})

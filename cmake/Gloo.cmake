# Many processes train as one over torch's c10d with Gloo. Its code is inside LibTorch; its headers are
# not in the wheel, but in Debian's libgloo-dev. Without them the program is built for one process.
include(CheckCXXSourceCompiles)
if(NOT TRAIN_SFT_GLOO_WORKS)
  unset(TRAIN_SFT_GLOO_WORKS CACHE)  # the headers may have been installed since
endif()
set(api_include ${TORCH_ROOT}/include/torch/csrc/api/include)  # c10d's headers want torch/types.h
set(CMAKE_REQUIRED_FLAGS "-idirafter ${TORCH_ROOT}/include -idirafter ${api_include} -std=c++20")
set(CMAKE_REQUIRED_DEFINITIONS -DUSE_C10D_GLOO)
set(CMAKE_REQUIRED_LINK_OPTIONS -Wl,--allow-shlib-undefined -Wl,-rpath,${TORCH_ROOT}/lib)
set(CMAKE_REQUIRED_LIBRARIES ${TORCH_ROOT}/lib/libtorch_cpu.so ${TORCH_ROOT}/lib/libc10.so)
check_cxx_source_compiles("
  #include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
  int main() { return c10d::ProcessGroupGloo::createDefaultDevice() == nullptr; }"
  TRAIN_SFT_GLOO_WORKS)
unset(CMAKE_REQUIRED_FLAGS)
unset(CMAKE_REQUIRED_DEFINITIONS)
unset(CMAKE_REQUIRED_LINK_OPTIONS)
unset(CMAKE_REQUIRED_LIBRARIES)
if(TRAIN_SFT_GLOO_WORKS)
  # For the whole part: its files are compiled together, c10d's headers read once.
  target_compile_definitions(train_sft_collective PRIVATE TRAIN_SFT_GLOO USE_C10D_GLOO)
  target_compile_options(train_sft_collective PRIVATE "SHELL:-idirafter ${api_include}")
else()
  message(STATUS "Gloo: no headers (libgloo-dev) or not in this LibTorch; built without --procs")
endif()

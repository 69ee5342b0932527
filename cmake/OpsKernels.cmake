# The kernels in src/ops/simd are compiled once for each instruction set; the program chooses among
# them when it starts. They include no library header, so that no inline function compiled with
# these flags can end up in code that runs on any machine.
function(train_sft_ops_kernels isa)
  cmake_parse_arguments(ISA "" "" "SOURCES;FLAGS" ${ARGN})
  list(TRANSFORM ISA_SOURCES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/src/ops/simd/)
  add_library(train_sft_ops_${isa} OBJECT ${ISA_SOURCES})
  target_compile_definitions(train_sft_ops_${isa} PRIVATE TRAIN_SFT_ISA=${isa})
  target_compile_options(train_sft_ops_${isa} PRIVATE ${ISA_FLAGS})
  if(TRAIN_SFT_SANITIZE)  # checks of every index in unrolled code take gigabytes to compile
    target_compile_options(train_sft_ops_${isa} PRIVATE -fno-sanitize=undefined)
  endif()
  target_include_directories(train_sft_ops_${isa} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(train_sft_ops_${isa} PRIVATE train_sft_warnings)
  target_sources(train_sft_ops PRIVATE $<TARGET_OBJECTS:train_sft_ops_${isa}>)
endfunction()

set(kernel_sources attention.cpp elementwise.cpp fill.cpp gemm.cpp norm.cpp normal.cpp
    qk_norm.cpp reductions.cpp)
# The same bits on every instruction set, and loops without branches.
set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/src/ops/simd/normal.cpp PROPERTIES COMPILE_OPTIONS
  "-O3;-ffp-contract=off;-fno-trapping-math;-fno-math-errno")
set(avx2_flags -mavx2 -mfma)
# GCC 12 takes its own intrinsics' undefined operands for uninitialised variables.
set(avx512_flags ${avx2_flags} -mavx512f -mavx512bw -mavx512dq -mavx512vl
                 -Wno-maybe-uninitialized -Wno-uninitialized)
train_sft_ops_kernels(avx2 SOURCES ${kernel_sources} FLAGS ${avx2_flags})
train_sft_ops_kernels(avx512 SOURCES ${kernel_sources} FLAGS ${avx512_flags})
train_sft_ops_kernels(avx512bf16 SOURCES attention_bf16.cpp gemm.cpp FLAGS ${avx512_flags} -mavx512bf16)

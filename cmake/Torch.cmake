# LibTorch from the pinned Python wheel. `find_package(Torch)` of a CUDA wheel demands a CUDA
# toolkit, so the two libraries the program needs are imported by hand.
if(NOT TORCH_ROOT)
  file(GLOB candidates ${CMAKE_CURRENT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  list(GET candidates 0 TORCH_ROOT)
endif()
if(NOT EXISTS ${TORCH_ROOT}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch not found (TORCH_ROOT='${TORCH_ROOT}'). Run scripts/setup.sh, "
                      "or pass -DTORCH_ROOT=<folder of the torch package>.")
endif()
message(STATUS "LibTorch: ${TORCH_ROOT}")

add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES IMPORTED_LOCATION ${TORCH_ROOT}/lib/libtorch_cpu.so)
add_library(torch_c10 SHARED IMPORTED)
set_target_properties(torch_c10 PROPERTIES IMPORTED_LOCATION ${TORCH_ROOT}/lib/libc10.so)

add_library(torch_headers INTERFACE)
# After the system's folders: torch carries a newer fmt that must not shadow spdlog's.
target_compile_options(torch_headers INTERFACE "SHELL:-idirafter ${TORCH_ROOT}/include")
# Headers bring the operators that they use, not all of them.
target_compile_definitions(torch_headers INTERFACE AT_PER_OPERATOR_HEADERS)

add_library(torch_runtime INTERFACE)
# torch ships libgomp.so.1; ours is compiled with -fopenmp and shares it (same soname, one runtime).
target_compile_options(torch_runtime INTERFACE -fopenmp)
target_link_libraries(torch_runtime INTERFACE torch_headers torch_cpu torch_c10
                      ${TORCH_ROOT}/lib/libgomp.so.1)
target_link_options(torch_runtime INTERFACE -Wl,--allow-shlib-undefined -Wl,-rpath,${TORCH_ROOT}/lib)

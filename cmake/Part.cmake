# train_sft_part(NAME [TORCH] DEPENDS libs...): src/NAME/*.cpp as the static library train_sft_NAME.
# Parts without TORCH see no torch header: they build in seconds and run under sanitizers.
# A part whose folder holds no source yet is an interface library, so that its dependents configure.
function(train_sft_part name)
  cmake_parse_arguments(PART "TORCH" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "/simd/")  # compiled by OpsKernels.cmake
  if(sources)
    add_library(train_sft_${name} STATIC ${sources})
    set(scope PUBLIC)
    target_include_directories(train_sft_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
    target_link_libraries(train_sft_${name} PRIVATE train_sft_warnings)
  else()
    add_library(train_sft_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(train_sft_${name} ${scope} ${CMAKE_CURRENT_SOURCE_DIR}/include)
  target_link_libraries(train_sft_${name} ${scope} ${PART_DEPENDS} Threads::Threads fmt::fmt)
  if(PART_TORCH)
    target_link_libraries(train_sft_${name} ${scope} torch_runtime)
  endif()
endfunction()

# train_sft_part(NAME [TORCH] DEPENDS libs...): src/NAME/*.cpp as the static library train_sft_NAME.
# Parts without TORCH see no torch header: they build in seconds and run under sanitizers.
function(train_sft_part name)
  cmake_parse_arguments(PART "TORCH" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  add_library(train_sft_${name} STATIC ${sources})
  target_include_directories(train_sft_${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include
                                               PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(train_sft_${name} PUBLIC ${PART_DEPENDS} Threads::Threads fmt::fmt
                                          PRIVATE train_sft_warnings)
  if(PART_TORCH)
    target_link_libraries(train_sft_${name} PUBLIC torch_runtime)
  endif()
endfunction()

find_program(CCACHE ccache)
if(CCACHE)
  # Without these ccache does not look at files that use precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
                                  ${CCACHE})
endif()

# GCC knows mold by name from version 12.1 on; an older compiler or no mold: the default linker.
include(CheckCXXSourceCompiles)
find_program(MOLD mold)
if(MOLD)
  set(CMAKE_REQUIRED_LINK_OPTIONS -fuse-ld=mold)
  check_cxx_source_compiles("int main() { return 0; }" TRAIN_SFT_MOLD_WORKS)
  unset(CMAKE_REQUIRED_LINK_OPTIONS)
  if(TRAIN_SFT_MOLD_WORKS)
    add_link_options(-fuse-ld=mold)
  endif()
endif()

# Our own code only; third-party headers come in as system headers.
add_library(train_sft_warnings INTERFACE)
target_compile_options(train_sft_warnings INTERFACE -Wall -Wextra -Wpedantic -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms on std::string assignment (GCC bugs 105651 and 105329).
  target_compile_options(train_sft_warnings INTERFACE -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds)
endif()

if(TRAIN_SFT_SANITIZE)
  add_compile_options(-fsanitize=${TRAIN_SFT_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${TRAIN_SFT_SANITIZE})
endif()
if(TRAIN_SFT_FUZZ)  # every file reports what it covered
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

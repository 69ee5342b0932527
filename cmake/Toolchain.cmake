find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# Our own code only; third-party headers come in as system headers.
add_library(train_sft_warnings INTERFACE)
target_compile_options(train_sft_warnings INTERFACE -Wall -Wextra -Wpedantic -Werror)

if(TRAIN_SFT_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# Headers that most files read are compiled once for each kind of target: reading them was four
# fifths of the time of a full build. Only headers of other projects belong here; a file includes
# what it uses all the same, so that it also compiles without (-DTRAIN_SFT_PRECOMPILED=OFF).
#
# Files of a target are compiled several at a time: they share most of what headers expand to, which
# takes longer than the files themselves (a third of the time for the program, half for its tests).
# So names in their unnamed namespaces must differ within a part; -DTRAIN_SFT_UNITY=OFF compiles
# file by file.
option(TRAIN_SFT_UNITY "Compile several source files at a time" ON)
function(train_sft_together target files)
  if(TRAIN_SFT_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${files})
  endif()
endfunction()

option(TRAIN_SFT_PRECOMPILED "Precompile the headers of the standard library and of torch" ON)

set(precompiled_plain <algorithm> <array> <atomic> <chrono> <cmath> <cstdint> <cstring> <filesystem>
    <functional> <map> <memory> <mutex> <numeric> <optional> <set> <span> <sstream> <string>
    <string_view> <thread> <unordered_map> <utility> <vector> <nlohmann/json.hpp> <fmt/format.h>)
if(TRAIN_SFT_TESTS)  # the same for the program and its tests
  list(APPEND precompiled_plain <gmock/gmock.h> <gtest/gtest.h>)
endif()
# Any operator's header brings what that of empty() does.
set(precompiled_torch ${precompiled_plain} <ATen/core/Tensor.h> <ATen/TensorOperators.h> <ATen/ops/empty.h>)

# The first target of a kind compiles its headers, the others of that kind take them from there: their
# options must not differ, and what it defines they must define, too (-Winvalid-pch tells).
function(train_sft_precompile target kind)
  if(NOT TRAIN_SFT_PRECOMPILED)
    return()
  endif()
  get_property(owner GLOBAL PROPERTY train_sft_precompiled_${kind})
  if(owner)
    target_precompile_headers(${target} REUSE_FROM ${owner})
  else()
    target_precompile_headers(${target} PRIVATE ${precompiled_${kind}})
    set_property(GLOBAL PROPERTY train_sft_precompiled_${kind} ${target})
  endif()
endfunction()

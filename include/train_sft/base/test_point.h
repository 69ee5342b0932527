// Named places between file operations at which a test may end the process. Together with the file
// seam (base/file_system.h) they let a test kill a run in any phase. Outside tests a place costs one
// load of a null pointer.
#pragma once

#include <atomic>

namespace train_sft {

using TestPointHook = void (*)(const char* name);
inline std::atomic<TestPointHook> test_point_hook{nullptr};

// May be called from any thread.
inline void test_point(const char* name) {
  if (const TestPointHook hook = test_point_hook.load(std::memory_order_relaxed)) hook(name);
}

}  // namespace train_sft

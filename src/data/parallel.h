// Work on numbered items by several threads, with results that do not depend on how many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace train_sft {

// 0: the cores this process may use.
int resolve_threads(int64_t threads);

// Calls work(i) for each i < count. Of several errors the one with the lowest i is thrown. The
// calling thread draws the progress bar and watches for signals. cost(i) (bytes, say) is the bar's
// unit.
void parallel_for(size_t count, int threads, const std::string& label,
                  const std::function<size_t(size_t)>& cost,
                  const std::function<void(size_t)>& work);

// Jobs made one at a time, in order, and worked off by several threads: next() is never called by
// two at once and gives an empty job at the end. A job returns how far it moves the bar. Of several
// errors that of the earliest job is thrown (or next()'s own, when the jobs before it went well).
using Job = std::function<size_t()>;
void parallel_jobs(int threads, const std::string& label, uint64_t total,
                   const std::function<Job()>& next);

}  // namespace train_sft

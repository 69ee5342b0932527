// The team of threads that the kernels share work with. It includes nothing: kernel files do
// (see simd/vec.h).
//
// OpenMP's team waits by spinning for milliseconds, which on a machine with anything else to do
// keeps the very thread that is waited for off the processor: small steps were measured to take 80
// times as long beside one busy process. This team spins for some tens of microseconds, which
// bridges the gaps between the ops of a step, and then sleeps.
#pragma once

namespace train_sft::ops {

// Threads of the process (at::set_num_threads); 1 on a thread of a running team.
int available_threads();

// Runs work(context, thread, threads) on `threads` threads, the caller being number 0, and returns
// when all are done. Not from within a team. Callers on several threads take turns. `work` must not
// throw.
void run_on_threads(int threads, void (*work)(void* context, int thread, int threads),
                    void* context);

// Waits until every thread of the running team has come here.
void team_barrier();

}  // namespace train_sft::ops

// How a run is shared among its processes: which rows each computes, and what all must have alike.
#pragma once

#include <cstdint>
#include <vector>

#include "train/run_setup.h"
#include "train_sft/ops/load_device.h"

namespace train_sft {

// Where this process computes: of several on a machine each has the GPU of its local rank; those of
// --procs compute on the CPU. Throws UsageError for a device that they cannot all have.
ops::ChosenDevice device_of_rank(const Run& run);
// Joins the devices of all ranks, none of which may be another's, and tries that. Nothing to do on
// CPUs. Throws UsageError unless all compute on the same kind.
void join_devices(Run& run, const ops::ChosenDevice& chosen);

// gpus as given, else the number of processes, which is then recorded as gpus: a resume by another
// number of processes goes on with the same steps. Throws UsageError unless the processes can share
// a step's micro-batches evenly.
int64_t batch_ranks(Run& run);
void check_shares(const Run& run);

// The micro-batches of a step that this process computes, in order. Micro-batch m of rank r, with
// rows [(m·ranks + r)·batch_size, …), is number j = m·ranks + r and falls to process j mod
// processes.
std::vector<StepRows> own_micro_batches(const BatchShape& batch, uint64_t rows_in_step, int process,
                                        int processes);

// Throws naming the first rank that is about to train something else than rank 0: its data, its
// settings, its weights, its kernels.
void compare_ranks(const Run& run);

// Of a decision about stopping: true when a signal has asked any rank to. `codes` is by rank: what
// stop_code() of that rank says, or 0. Notes the code that the run then ends with.
bool stop_agreed(Run& run, const std::vector<double>& codes);

}  // namespace train_sft

// Going back after divergence.
#pragma once

#include "train/ending.h"

namespace train_sft {

// With on_divergence=rollback: loads the newest checkpoint that no non-finite step precedes, halves
// the learning rate and cuts the records back. False when that is not asked for, was done three
// times, or there is no such checkpoint. Nothing random: a run killed after it and resumed diverges
// again, goes back again and ends the same.
bool roll_back(Loop& loop);

}  // namespace train_sft

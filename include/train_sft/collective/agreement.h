// What the ranks of a run agree on, so that none goes on alone.
#pragma once

#include <functional>
#include <string>

#include "train_sft/collective/collective.h"

namespace train_sft {

// Does `work` on every rank and waits for all, however long it takes. Where it failed on any, every
// rank throws: the lowest that failed its own error, the others the same code and "rank R: " in
// front of the message. `work` must not call the collective.
void together(Collective& collective, const char* name, const std::function<void()>& work);
// As together(), on the first rank before the others; or on the first of each machine.
void first_rank_first(Collective& collective, const char* name, const std::function<void()>& work);
void first_of_machine_first(Collective& collective, const char* name,
                            const std::function<void()>& work);

// Throws UsageError naming the first rank whose value is not rank 0's. `what`: "the training data".
// `remedy` ends the message.
void require_same(Collective& collective, const char* what, const std::string& value,
                  const char* remedy);

}  // namespace train_sft

// Which settings a resumed run goes on with: those it was saved with, overridden by what is said
// now where that keeps the run the same run.
#pragma once

#include <string>

#include "train_sft/config/options.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {

// The recorded settings with each setting's source as it was recorded.
Settings recorded_settings(const TrainState& state, const std::string& checkpoint);

// True when `given` names a configuration whose settings differ from the checkpoint's in something
// that shapes the run (not in how often it logs). `difference` then names the first one.
bool is_other_configuration(const Settings& given, const Settings& recorded,
                            std::string& difference);

// Recorded settings overridden by given ones. Throws UsageError for a changed schedule, and for
// changed order of data unless overwrite_data_check; warns about what is said now and not followed.
Settings merge_resumed(const Settings& given, const Settings& recorded, bool extending);

// Recorded settings overridden by every given one: for a fresh schedule from the same run.
Settings merge_fresh(const Settings& given, const Settings& recorded);

// Clears the settings that belong to one start and not to the run: resume, extend_steps, …
void clear_start_options(Settings& settings);

}  // namespace train_sft

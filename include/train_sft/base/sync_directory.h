#pragma once

#include <string>

namespace train_sft {

// Makes the names in a folder durable: those of new, renamed and removed files. Writing, committing
// and linking (base/file.h) do so themselves; a file that is appended to has to be asked for.
void sync_directory(const std::string& path);

}  // namespace train_sft

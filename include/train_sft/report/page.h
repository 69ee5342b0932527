// A run, or several beside each other, as one self-contained HTML page and as a Markdown model
// card.
//
// The page loads nothing: styles, script and numbers are inside, and its content security policy
// forbids everything else. Text that comes from data, settings or the model is escaped; the script
// gets numbers and names as JSON and never makes markup of them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "train_sft/report/run_files.h"

namespace train_sft {

std::string html_page(std::span<const RunFiles> runs);  // at least one run
std::string markdown_card(const RunFiles& run);

// "done after 800 steps (1.04 epochs): validation loss 1.2345 at step 750, …"
std::string summary_sentence(const RunFiles& run);

// Writes the page of the run in `directory` to its report.html, atomically. Throws Error.
void write_report(const std::string& directory);

}  // namespace train_sft

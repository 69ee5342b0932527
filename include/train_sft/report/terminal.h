// A run as text for a terminal.
#pragma once

#include <string>
#include <vector>

#include "train_sft/report/run_files.h"

namespace train_sft {

struct TerminalSize {
  size_t columns = 80, rows = 24;
};

// Lines without colours or control characters, none wider than the terminal: progress, figures,
// curves, signs, the last samples. Fits into size.rows lines unless that is less than 12.
std::vector<std::string> terminal_view(const RunFiles& run, TerminalSize size);

// The same facts as one object: name, state, step, max_iters, epoch, loss, val_loss, best_val_loss,
// best_step, lr, grad_norm, tokens_per_s, step_ms, memory_bytes, memory_limit_bytes, seconds,
// seconds_left, signs, samples (of the last step with samples). What is not known is null.
Json watch_json(const RunFiles& run);

// Text as it may be printed: control characters and ill-formed UTF-8 replaced, so that no sample
// can command the terminal.
std::string printable(const std::string& text);

// A curve as `rows` lines of `columns` braille characters, two dots wide and four high each. Values
// that are not finite are gaps. x and y of the same length.
std::vector<std::string> braille_curve(const std::vector<double>& x, const std::vector<double>& y,
                                       size_t columns, size_t rows);

}  // namespace train_sft

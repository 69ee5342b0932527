// inspect of data files: what training would read from them, and examples as they are learned.
#pragma once

#include <string>
#include <vector>

#include "cli/command_line.h"
#include "train_sft/data/dataset.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft::cli {

// A stretch of an example whose tokens are all learned, or all context.
struct ExampleSpan {
  std::string text;  // special tokens by their names
  bool learned = false;
};
std::vector<ExampleSpan> example_spans(const Dataset& dataset, const Tokenizer& tokenizer,
                                       uint64_t example);

// Learned stretches between ⟦ and ⟧.
std::string plain_text(const std::vector<ExampleSpan>& spans);
// For a terminal: learned stretches bold and green, the others faint. Control characters of the
// data are shown as symbols, so that no file can steer the terminal.
std::string coloured_text(const std::vector<ExampleSpan>& spans);

// Prints the report and the examples, unless `config.json`; the same as JSON. Throws what load_data
// throws.
Json inspect_data(const Invocation& invocation, const std::vector<std::string>& paths);

}  // namespace train_sft::cli

// The one line at the bottom of a terminal that a progress bar owns. Log lines go above it: they
// are written while it is erased.
#pragma once

#include <functional>
#include <string>

namespace train_sft::status_line {

void draw(const std::string& line);
void erase();                                          // for good
void write_above(const std::function<void()>& write);  // erase, write, draw again

}  // namespace train_sft::status_line

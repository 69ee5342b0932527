// A stream of bytes as lines, of which the last are kept: what a process said before it failed.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace train_sft {

class LastLines {
 public:
  // The lines that are complete now. One that is too long comes in pieces.
  std::vector<std::string> add(std::string_view bytes);
  // What is left at the end of the stream, if anything.
  std::vector<std::string> finish();
  // The last ones, indented.
  std::string text() const;

 private:
  void take(std::vector<std::string>& lines);

  std::string partial_;
  std::deque<std::string> kept_;
};

}  // namespace train_sft

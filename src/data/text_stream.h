// The text of a data file, unpacked, read piece by piece in bounded memory and checked to be UTF-8.
#pragma once

#include <string>

#include "data_reader.h"

namespace train_sft {

class TextStream {
 public:
  // plain_newlines: line ends of Windows become newlines.
  TextStream(const std::string& path, bool plain_newlines);
  // Appends some text to out; false at the end. Throws DataError with line and byte for what is not
  // UTF-8, and when nothing but blanks has come by the end.
  bool read(std::string& out);
  // Of the file: its checksum, once all has been read, and how much of it has been so far.
  std::string checksum() const { return file_.checksum(); }
  uint64_t consumed() const { return file_.consumed(); }

 private:
  void check_utf8(bool last);

  std::string path_;
  bool plain_newlines_;
  DataReader file_;
  std::string head_;   // the first bytes
  std::string block_;  // what was read last, beginning with what was left over
  std::string carry_;  // a character's first bytes, a carriage return
  uint64_t offset_ = 0;
  uint64_t line_ = 1;
  bool begun_ = false, ended_ = false, has_text_ = false;
};

// The first line with a value of a file of JSON lines; "" when the file is none: it is named
// otherwise or begins with an array.
std::string first_line_of_json_lines(const std::string& path);

}  // namespace train_sft

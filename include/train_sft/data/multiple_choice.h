// Questions with several endings, one of which is right: the form of HellaSwag (Zellers et al.
// 2019).
#pragma once

#include <string>
#include <vector>

namespace train_sft {

struct Question {
  std::string context;
  std::vector<std::string> endings;  // two or more
  size_t label = 0;                  // the right one
  std::string where;                 // file:line
};

// JSON records with `ctx`, `endings` (texts) and `label` (a number, or a text that holds one);
// other fields are let be. Plain or compressed. Throws DataError with file:line and field.
std::vector<Question> read_questions(const std::string& path);

}  // namespace train_sft

#include "train_sft/data/multiple_choice.h"

#include <charconv>

#include "json_records.h"
#include "text_file.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

size_t label_of(const Json& json, size_t endings, const std::string& where) {
  const auto found = json.find("label");
  int64_t label = -1;
  if (found == json.end()) throw DataError("{}: no field 'label' in this record", where);
  if (found->is_number_integer()) {
    label = found->get<int64_t>();
  } else if (found->is_string()) {
    const auto& text = found->get_ref<const std::string&>();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), label);
    if (error != std::errc() || end != text.data() + text.size()) label = -1;
  }
  if (label < 0 || label >= static_cast<int64_t>(endings)) {
    throw DataError("{}: field 'label' is {}, expected a number from 0 to {}", where, found->dump(),
                    endings - 1);
  }
  return static_cast<size_t>(label);
}

Question question_of(const Json& json, const std::string& where) {
  if (!json.is_object())
    throw DataError("{}: a record is {}, expected an object", where, json.type_name());
  Question question;
  question.where = where;
  question.context = json_string(json, "ctx", where);
  const auto endings = json.find("endings");
  if (endings == json.end()) throw DataError("{}: no field 'endings' in this record", where);
  if (!endings->is_array() || endings->size() < 2)
    throw DataError("{}: field 'endings' must be an array of two texts or more", where);
  for (const Json& ending : *endings) {
    if (!ending.is_string() || ending.get_ref<const std::string&>().empty())
      throw DataError("{}: field 'endings' holds {}, expected texts", where, ending.dump());
    question.endings.push_back(ending.get<std::string>());
  }
  question.label = label_of(json, question.endings.size(), where);
  return question;
}

}  // namespace

std::vector<Question> read_questions(const std::string& path) {
  const TextFile file(path);
  std::vector<Question> questions;
  for (const JsonRecord& record : json_records(file.text(), path)) {
    questions.push_back(
        question_of(parse_record(record, path), fmt::format("{}:{}", path, record.line)));
  }
  if (questions.empty()) throw DataError("{}: holds no questions", path);
  return questions;
}

}  // namespace train_sft

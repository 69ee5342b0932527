#include "train_sft/data/eval_sets.h"

#include <algorithm>

#include "text_file.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

bool is_name(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

// "data/held out.jsonl.gz" → "held_out".
std::string name_of_file(const std::string& path) {
  std::string name = base_name(std::string(without_compression_suffix(path)));
  if (const size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0) name.resize(dot);
  for (char& c : name) {
    if (!is_name(std::string(1, c))) c = '_';
  }
  return name;
}

}  // namespace

std::vector<NamedPath> parse_eval_data(const std::vector<std::string>& given) {
  std::vector<NamedPath> sets;
  for (const std::string& text : given) {
    const size_t sign = text.find('=');
    NamedPath set;
    set.path = sign == std::string::npos ? text : text.substr(sign + 1);
    set.name = sign == std::string::npos ? name_of_file(text) : text.substr(0, sign);
    if (!is_name(set.name) || set.path.empty()) {
      throw UsageError("eval_data: '{}' is not name=path with a name of letters, digits, _ - .",
                       text);
    }
    for (const NamedPath& other : sets) {
      if (other.name != set.name) continue;
      throw UsageError("eval_data: {} and {} are both called {}; give them names: name={}",
                       other.path, set.path, set.name, set.path);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

std::vector<std::unique_ptr<EvalSet>> load_eval_sets(const TrainConfig& config,
                                                     const Tokenizer& tokenizer,
                                                     const ChatTemplate& chat_template) {
  std::vector<std::unique_ptr<EvalSet>> sets;
  for (const NamedPath& named : parse_eval_data(config.eval_data)) {
    TrainConfig own = config;
    own.data = {named.path};
    own.val_data.clear();
    own.val_split = 0;
    own.data_format = "auto";
    own.packing = "auto";
    Dataset data = load_data(own, tokenizer, chat_template).train;
    const Packing packing = resolve_packing(own, data.is_text);
    auto set = std::make_unique<EvalSet>(named.name, std::move(data), packing, config.block_size);
    add_rows(set->data.report, set->rows);
    if (set->rows.size() == 0) {
      throw UsageError("eval_data: {} is shorter than a row of {} tokens; lower block_size",
                       named.path, config.block_size);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

}  // namespace train_sft

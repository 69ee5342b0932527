#include "train_sft/report/signs.h"

#include <map>

#include "report/history.h"
#include "report/sign_rules.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

// A rule that has spoken is silent until what it looks for was gone for this many records.
constexpr size_t kQuietRecords = 20;

const std::vector<SignRule>& all_rules() {
  static const std::vector<SignRule> rules = [] {
    std::vector<SignRule> all;
    for (const auto part : {gradient_rules(), loss_rules(), evaluation_rules(), machine_rules()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }();
  return rules;
}

}  // namespace

Json to_json(const Sign& sign) {
  return {
      {"rule", sign.rule},         {"level", sign.level == Sign::Level::note ? "note" : "warning"},
      {"step", sign.step},         {"from_step", sign.from_step},
      {"evidence", sign.evidence}, {"advice", sign.advice}};
}

std::vector<std::string> sign_rules() {
  std::vector<std::string> names;
  for (const SignRule& rule : all_rules()) names.emplace_back(rule.name);
  return names;
}

struct SignWatch::State {
  History history;
  std::map<std::string, size_t> last_found;  // by rule: records seen when it last found something
};

SignWatch::SignWatch() : state_(std::make_unique<State>()) {}
SignWatch::~SignWatch() = default;
SignWatch::SignWatch(SignWatch&&) noexcept = default;
SignWatch& SignWatch::operator=(SignWatch&&) noexcept = default;

std::vector<Sign> SignWatch::add(const Record& record) {
  TRAIN_SFT_CHECK(state_ != nullptr, "used after a move");
  state_->history.add(record);
  const size_t now = state_->history.records().size();
  std::vector<Sign> signs;
  for (const SignRule& rule : all_rules()) {
    std::optional<Finding> finding = rule.look(state_->history);
    if (!finding) continue;
    const auto [last, is_first] = state_->last_found.try_emplace(rule.name, now);
    const bool is_new =
        is_first || rule.level == Sign::Level::note || now - last->second > kQuietRecords;
    last->second = now;
    if (is_new)
      signs.push_back({rule.name, rule.level, record.step, finding->from_step,
                       std::move(finding->evidence), std::move(finding->advice)});
  }
  return signs;
}

std::vector<Sign> signs_of(std::span<const Record> records) {
  SignWatch watch;
  std::vector<Sign> signs;
  for (const Record& record : records)
    for (Sign& sign : watch.add(record)) signs.push_back(std::move(sign));
  return signs;
}

}  // namespace train_sft

#include "report/page_numbers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace train_sft {
namespace {

constexpr size_t kMostPoints = 3000;

// Six digits are more than a screen shows.
Json number(double value) {
  if (!std::isfinite(value)) return nullptr;
  if (value == 0) return 0;
  const double unit = std::pow(10, 6 - std::ceil(std::log10(std::abs(value))));
  return std::isfinite(unit) && unit > 0 ? std::round(value * unit) / unit : value;
}

void add_place(Json& series, const Record& record) {
  series["step"].push_back(record.step);
  series["epoch"].push_back(number(record.epoch));
  series["tokens"].push_back(record.tokens);
}

Json new_series(std::initializer_list<const char*> keys) {
  Json series = {{"step", Json::array()}, {"epoch", Json::array()}, {"tokens", Json::array()}};
  for (const char* key : keys) series[key] = Json::array();
  return series;
}

Json train_series(const RunFiles& run) {
  Json series = new_series({"loss", "lr", "grad_norm", "tokens_per_s"});
  for (const size_t i : thinned(run.records, kMostPoints)) {
    const Record& record = run.records[i];
    add_place(series, record);
    series["loss"].push_back(number(record.loss));
    series["lr"].push_back(number(record.lr));
    series["grad_norm"].push_back(number(record.grad_norm));
    series["tokens_per_s"].push_back(number(record.tokens_per_s));
  }
  return series;
}

Json evaluation_series(const RunFiles& run) {
  Json series = new_series({"loss"});
  for (const Record& record : run.records) {
    if (!record.val_loss) continue;
    add_place(series, record);
    series["loss"].push_back(number(*record.val_loss));
  }
  return series;
}

Json named_series(const RunFiles& run) {
  Json named = Json::object();
  for (const Record& record : run.records)
    for (const auto& [name, loss] : record.eval_losses) {
      if (!named.contains(name)) named[name] = new_series({"loss"});
      add_place(named[name], record);
      named[name]["loss"].push_back(number(loss));
    }
  return named;
}

// The curves that show what a rule saw.
Json charts_of(const std::string& rule) {
  static const std::map<std::string, std::vector<const char*>> charts = {
      {"grad_norm_high", {"grad_norm"}},
      {"grad_norm_rising", {"grad_norm"}},
      {"loss_spike", {"loss", "grad_norm"}},
      {"non_finite", {"loss", "grad_norm"}},
      {"over_fitting", {"loss", "perplexity"}},
      {"plateau", {"loss", "perplexity"}},
      {"perplexity_milestone", {"perplexity"}},
      {"lr_too_high", {"loss", "lr"}},
      {"lr_too_low", {"loss", "lr"}},
      {"data_wait", {"tokens_per_s"}},
      {"throughput_dropping", {"tokens_per_s"}},
      {"memory_near_limit", {"tokens_per_s"}},
  };
  const auto found = charts.find(rule);
  return found == charts.end() ? Json::array({"loss"}) : Json(found->second);
}

Json sign_marks(const RunFiles& run) {
  Json marks = Json::array();
  for (const Sign& sign : run.signs) {
    const auto at = std::find_if(run.records.begin(), run.records.end(),
                                 [&](const Record& r) { return r.step >= sign.from_step; });
    if (at == run.records.end()) continue;
    marks.push_back({{"rule", sign.rule},
                     {"evidence", sign.evidence},
                     {"step", at->step},
                     {"epoch", number(at->epoch)},
                     {"tokens", at->tokens},
                     {"charts", charts_of(sign.rule)}});
  }
  return marks;
}

}  // namespace

std::vector<size_t> thinned(std::span<const Record> records, size_t most) {
  std::vector<size_t> kept;
  const size_t size = records.size();
  if (size <= most || most < 4) {
    for (size_t i = 0; i < size; ++i) kept.push_back(i);
    return kept;
  }
  const size_t stretches = most / 3;
  const auto less = [&](size_t a, size_t b) {  // what is not finite is higher than all
    const double x = records[a].loss, y = records[b].loss;
    return std::isfinite(x) && (!std::isfinite(y) || x < y);
  };
  for (size_t s = 0; s < stretches; ++s) {
    const size_t begin = s * size / stretches, end = (s + 1) * size / stretches;
    size_t low = begin, high = begin;
    for (size_t i = begin; i < end; ++i) {
      if (less(i, low)) low = i;
      if (less(high, i)) high = i;
    }
    for (const size_t i : std::set<size_t>{begin, low, high}) kept.push_back(i);
  }
  if (kept.back() != size - 1) kept.push_back(size - 1);
  return kept;
}

Json page_numbers(std::span<const RunFiles> runs) {
  Json all = Json::array();
  for (const RunFiles& run : runs)
    all.push_back({{"name", run.name},
                   {"train", train_series(run)},
                   {"evaluations", evaluation_series(run)},
                   {"named", named_series(run)},
                   {"signs", sign_marks(run)}});
  return {{"runs", all}};
}

}  // namespace train_sft

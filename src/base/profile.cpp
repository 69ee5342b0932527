#include "train_sft/base/profile.h"

#include <algorithm>
#include <map>
#include <string_view>

namespace train_sft::profile {
namespace {

struct Total {
  int64_t calls = 0;
  double ms = 0;
};

thread_local bool measuring = false;
thread_local bool within = false;
thread_local std::map<std::string_view, Total> totals;

}  // namespace

void measure(bool on) {
  measuring = on;
}

void forget() {
  totals.clear();
}

std::vector<Entry> entries() {
  std::vector<Entry> list;
  for (const auto& [name, total] : totals)
    list.push_back({std::string(name), total.calls, total.ms});
  std::sort(list.begin(), list.end(), [](const Entry& a, const Entry& b) { return a.ms > b.ms; });
  return list;
}

Scope::Scope(const char* name) : name_(measuring && !within ? name : nullptr) {
  if (name_ == nullptr) return;
  within = true;
  begin_ = std::chrono::steady_clock::now();
}

Scope::~Scope() {
  if (name_ == nullptr) return;
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begin_;
  Total& total = totals[name_];
  ++total.calls;
  total.ms += spent.count();
  within = false;
}

}  // namespace train_sft::profile

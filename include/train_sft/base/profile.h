// Where the time of training goes, by name: every op is a scope whose wall time is added up while
// measuring is on. Each thread measures itself, and of scopes within one another only the outermost,
// so that the times add up to no more than the clock's.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace train_sft::profile {

void measure(bool on);  // this thread, from now; off at first
void forget();          // what this thread has measured

struct Entry {
  std::string name;
  int64_t calls = 0;
  double ms = 0;
};
// What this thread has measured, longest first.
std::vector<Entry> entries();

class Scope {
 public:
  // `name` must outlive the profile (a literal).
  explicit Scope(const char* name);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  const char* name_;  // nullptr: not measured
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace train_sft::profile

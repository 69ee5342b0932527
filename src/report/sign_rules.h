// The rules behind the signs. A rule looks at the history as it stands at its last record and says
// what it finds; that it found the same a record ago is not its business.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "report/history.h"
#include "train_sft/report/signs.h"

namespace train_sft {

// Below this part of the peak rate a curve flattens by design.
inline constexpr double kAnnealed = 0.3;

struct Finding {
  int64_t from_step = 0;
  std::string evidence, advice;
};

struct SignRule {
  const char* name;
  Sign::Level level;
  std::optional<Finding> (*look)(const History&);
};

// Of the machine and of the gradient: machine_rules.cpp, gradient_rules.cpp.
std::span<const SignRule> machine_rules();
std::span<const SignRule> gradient_rules();
// Of training loss against steps, and of evaluations: loss_rules.cpp, evaluation_rules.cpp.
std::span<const SignRule> loss_rules();
std::span<const SignRule> evaluation_rules();

}  // namespace train_sft

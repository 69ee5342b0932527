// A plan for people: a block a subject, and several plans side by side.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "train_sft/base/error.h"
#include "train_sft/base/progress.h"
#include "train_sft/plan/plan.h"

namespace train_sft {
namespace {

double number(const Json& plan, const char* key) {
  const auto found = plan.find(key);
  return found == plan.end() || found->is_null() ? 0 : found->get<double>();
}

std::string whole(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

class Text {
 public:
  template <typename... Args>
  void line(std::string_view label, fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format("{:<11}{}\n", label, fmt::format(format, std::forward<Args>(args)...));
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

// The learning rate over the run as a line of blocks, from zero to its peak.
std::string curve(const Json& rates) {
  static constexpr std::array blocks{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  double peak = 0;
  for (const Json& rate : rates) peak = std::max(peak, rate.get<double>());
  std::string line;
  for (const Json& rate : rates) {
    const double part = peak > 0 ? rate.get<double>() / peak : 0;
    line += blocks[static_cast<size_t>(std::lround(part * (blocks.size() - 1)))];
  }
  return line;
}

void describe_model(const Json& plan, Text& text) {
  std::string parts;
  for (const auto& [part, size] : plan["params_by_part"].items()) {
    if (size.get<double>() == 0) continue;
    parts +=
        fmt::format("{}{} {}", parts.empty() ? "" : ", ", part, human_count(size.get<double>()));
  }
  std::replace(parts.begin(), parts.end(), '_', '-');
  if (const Json& device = plan["device"]; !device.is_null())
    text.line("device", "{} × {}, {} each", whole(number(device, "count")),
              device["name"].get<std::string>(), human_bytes(number(device, "memory_bytes")));
  text.line("model", "{} parameters: {}; {}", human_count(number(plan, "params")), parts,
            plan["precision"].get<std::string>());
}

void describe_data(const Json& plan, Text& text) {
  text.line("data", "{} rows an epoch, {} tokens; {} rows of validation",
            whole(number(plan, "rows_per_epoch")), whole(number(plan, "tokens_per_epoch")),
            whole(number(plan, "validation_rows")));
  if (plan.contains("fill")) {
    text.line(
        "", "{:.1f} % learned, rows {:.1f} % full, {} truncated, {} dropped, {} duplicates",
        100 * number(plan, "learned_tokens") / std::max(1.0, number(plan, "tokens_per_epoch")),
        100 * number(plan, "fill"), whole(number(plan, "truncated")),
        whole(number(plan, "dropped")), whole(number(plan, "duplicates")));
  }
  if (plan.contains("rows_at_stride_1") && plan.contains("fill")) {
    text.line("",
              "rows do not overlap (a stride of 1 would give {}); {} tokens at the end left out",
              whole(number(plan, "rows_at_stride_1")), whole(number(plan, "tail_tokens")));
  }
}

void describe_length(const Json& plan, Text& text) {
  text.line("step", "{} rows, up to {} tokens (grad_accum {}); {} rows at a time",
            whole(number(plan, "examples_per_step")), whole(number(plan, "tokens_per_step")),
            whole(number(plan, "grad_accum")), whole(number(plan, "micro_batch_rows")));
  text.line("epoch", "{} steps ({:.2f} if every row were full)",
            whole(number(plan, "steps_per_epoch")), number(plan, "steps_per_epoch_if_full"));
  text.line("run", "{} steps = {:.3f} epochs, {} tokens", whole(number(plan, "max_iters")),
            number(plan, "epochs"), human_count(number(plan, "tokens_total")));
  std::string epochs;
  for (const auto& [count, steps] : plan["iters_for_epochs"].items())
    epochs +=
        fmt::format("{}{}: {}", epochs.empty() ? "" : ", ", count, whole(steps.get<double>()));
  text.line("", "steps for so many epochs: {}", epochs);
}

void describe_schedule(const Json& plan, Text& text) {
  text.line("schedule", "{}: warm-up {}, plateau {}, decay {}",
            plan["lr_schedule"].get<std::string>(), whole(number(plan, "warmup_iters")),
            whole(number(plan, "plateau_iters")), whole(number(plan, "decay_iters")));
  std::string rates;
  for (const auto& [step, rate] : plan["lr_at"].items())
    rates +=
        fmt::format("{}{:.3g} at step {}", rates.empty() ? "" : ", ", rate.get<double>(), step);
  text.line("", "{}", rates);
  text.line("", "{}", curve(plan["lr_curve"]));
}

void describe_communication(const Json& sums, Text& text) {
  if (sums.is_null()) return;
  const double nodes = number(sums, "nodes");
  text.line("ranks", "{}{}: each sends {} a step ({}){}", whole(number(sums, "ranks")),
            nodes > 1 ? fmt::format(" on {} nodes", whole(nodes)) : "",
            human_bytes(number(sums, "sent_bytes")), sums["reduce_dtype"].get<std::string>(),
            nodes > 1 ? fmt::format(", each node {} to others",
                                    human_bytes(number(sums, "node_sent_bytes")))
                      : "");
  if (!sums["exposed_ms"].is_null())
    text.line(
        "",
        "{:.4g} ms of communication, {:.4g} of them beside {:.4g} ms of computation: {:.1f} % "
        "of {} times the speed of one",
        number(sums, "communication_ms"),
        number(sums, "communication_ms") - number(sums, "exposed_ms"), number(sums, "compute_ms"),
        100 * number(sums, "scaling_efficiency"), whole(number(sums, "ranks")));
  text.line("", "{}", sums["links_basis"].get<std::string>());
  if (sums["shard"] == "none")
    text.line("", "--shard optimizer would leave {} of the optimizer's state to each",
              human_bytes(number(sums, "optimizer_bytes_sharded")));
}

void describe_cost(const Json& plan, Text& text) {
  text.line("compute", "{:.3g} FLOP a step, {:.3g} in all", number(plan, "flops_per_step"),
            number(plan, "flops_per_step") * number(plan, "max_iters"));
  if (number(plan, "step_ms") > 0) {
    text.line("time", "{:.4g} ms a step, {} tokens/s: {} in all, {} evaluations of {} included",
              number(plan, "step_ms"), whole(number(plan, "tokens_per_s")),
              human_duration(number(plan, "total_s")), whole(number(plan, "evaluations")),
              human_duration(number(plan, "evaluation_s")));
    if (number(plan, "step_ms_at_peak") > 0)
      text.line("", "no less than {:.4g} ms a step and {} in all, at the devices' peak",
                number(plan, "step_ms_at_peak"), human_duration(number(plan, "total_s_at_peak")));
    text.line("", "{}", plan["time_basis"].get<std::string>());
  } else if (!plan["device"].is_null()) {
    text.line("time", "{}", plan["time_basis"].get<std::string>());
  }
  describe_communication(plan["communication"], text);
  std::string parts;
  for (const auto& [part, size] : plan["memory_bytes"].items()) {
    if (part == "total" || size.get<double>() == 0) continue;
    parts +=
        fmt::format("{}{} {}", parts.empty() ? "" : ", ", part, human_bytes(size.get<double>()));
  }
  std::replace(parts.begin(), parts.end(), '_', ' ');
  text.line("memory", "{} of {}: {}", human_bytes(plan["memory_bytes"]["total"].get<double>()),
            human_bytes(number(plan, "max_memory_bytes")), parts);
  if (number(plan, "largest_batch_size") > 0)
    text.line("", "the largest batch_size that fits: {}",
              whole(number(plan, "largest_batch_size")));
}

// What each kind of recomputation would save, and cost, against this run as it is set.
void describe_recompute(const Json& plan, Text& text) {
  const double bytes = plan["memory_bytes"]["total"].get<double>();
  const double step_ms = number(plan, "step_ms");
  std::string kinds;
  for (const auto& [kind, with] : plan["recompute"].items()) {
    const double saved = bytes - number(with, "memory_bytes");
    if (saved == 0) continue;
    kinds += fmt::format("{}{} would {} {}", kinds.empty() ? "" : "; ", kind,
                         saved > 0 ? "save" : "take", human_bytes(std::abs(saved)));
    if (step_ms > 0)
      kinds +=
          fmt::format(" for {:+.0f} % of the time", 100 * (number(with, "step_ms") / step_ms - 1));
  }
  if (!kinds.empty()) text.line("", "--recompute: {}", kinds);
}

void describe_storage(const Json& plan, Text& text) {
  const Json& storage = plan["storage_bytes"];
  double all = 0;
  for (const Json& part : storage) all += part.get<double>();
  const auto part = [&](const char* name) { return human_bytes(storage[name].get<double>()); };
  text.line("storage", "{} checkpoints of {} weights; kept: weights {}, optimizer {}",
            whole(number(plan, "checkpoints")), human_bytes(number(plan, "checkpoint_bytes")),
            part("weights"), part("optimizer"));
  text.line("", "token cache {}; {} in all, {} free", part("token_cache"), human_bytes(all),
            human_bytes(number(plan, "free_disk_bytes")));
}

struct Figure {
  const char* label;
  std::string (*show)(const Json&);
};

const std::vector<Figure>& figures() {
  static const std::vector<Figure> list{
      {"steps", [](const Json& p) { return whole(number(p, "max_iters")); }},
      {"epochs", [](const Json& p) { return fmt::format("{:.2f}", number(p, "epochs")); }},
      {"steps an epoch", [](const Json& p) { return whole(number(p, "steps_per_epoch")); }},
      {"rows a step", [](const Json& p) { return whole(number(p, "examples_per_step")); }},
      {"tokens a step", [](const Json& p) { return whole(number(p, "tokens_per_step")); }},
      {"tokens in all", [](const Json& p) { return human_count(number(p, "tokens_total")); }},
      {"rows an epoch", [](const Json& p) { return whole(number(p, "rows_per_epoch")); }},
      {"warm-up", [](const Json& p) { return whole(number(p, "warmup_iters")); }},
      {"plateau", [](const Json& p) { return whole(number(p, "plateau_iters")); }},
      {"decay", [](const Json& p) { return whole(number(p, "decay_iters")); }},
      {"peak rate", [](const Json& p) { return fmt::format("{:.3g}", number(p, "peak_lr")); }},
      {"last rate", [](const Json& p) { return fmt::format("{:.3g}", number(p, "min_lr")); }},
      {"parameters", [](const Json& p) { return human_count(number(p, "params")); }},
      {"ms a step", [](const Json& p) { return fmt::format("{:.4g}", number(p, "step_ms")); }},
      {"efficiency",
       [](const Json& p) {
         const Json& sums = p["communication"];
         const bool known = !sums.is_null() && !sums["scaling_efficiency"].is_null();
         return known ? fmt::format("{:.1f} %", 100 * number(sums, "scaling_efficiency")) : "–";
       }},
      {"time", [](const Json& p) { return human_duration(number(p, "total_s")); }},
      {"memory",
       [](const Json& p) { return human_bytes(p["memory_bytes"]["total"].get<double>()); }},
      {"checkpoints", [](const Json& p) { return whole(number(p, "checkpoints")); }},
      {"evaluations", [](const Json& p) { return whole(number(p, "evaluations")); }},
  };
  return list;
}

std::string warnings_of(const Json& plan) {
  std::string text;
  for (const Json& warning : plan["warnings"])
    text += fmt::format("warning    {} ({})\n", warning["text"].get<std::string>(),
                        warning["evidence"].get<std::string>());
  return text;
}

}  // namespace

std::string describe_plan(const Json& plan) {
  Text text;
  describe_model(plan, text);
  describe_data(plan, text);
  describe_length(plan, text);
  describe_schedule(plan, text);
  describe_cost(plan, text);
  describe_recompute(plan, text);
  describe_storage(plan, text);
  return text.take() + warnings_of(plan);
}

std::string describe_comparison(const std::vector<std::pair<std::string, Json>>& plans) {
  std::vector<size_t> widths;
  std::string text = fmt::format("{:<16}", "");
  for (const auto& [name, plan] : plans) {
    widths.push_back(std::max<size_t>(name.size(), 10) + 2);
    text += fmt::format("{:>{}}", name, widths.back());
  }
  text += '\n';
  for (const Figure& figure : figures()) {
    std::vector<std::string> cells;
    for (const auto& [name, plan] : plans) cells.push_back(figure.show(plan));
    const bool same = std::all_of(cells.begin(), cells.end(),
                                  [&](const std::string& cell) { return cell == cells[0]; });
    const bool always =
        figure.label == std::string_view("steps") || figure.label == std::string_view("epochs");
    if (same && !always) continue;
    text += fmt::format("{:<16}", figure.label);
    for (size_t i = 0; i < cells.size(); ++i) text += fmt::format("{:>{}}", cells[i], widths[i]);
    text += '\n';
  }
  for (const auto& [name, plan] : plans) {
    const std::string warnings = warnings_of(plan);
    if (!warnings.empty()) text += fmt::format("{}\n{}", name, warnings);
  }
  return text;
}

}  // namespace train_sft

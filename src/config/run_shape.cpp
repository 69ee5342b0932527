#include "train_sft/config/run_shape.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <map>
#include <string>
#include <thread>

#include "train_sft/base/error.h"
#include "train_sft/base/progress.h"
#include "train_sft/config/recompute.h"

namespace train_sft {
namespace {

// The total as a multiple of one round of all ranks, in the total's own unit.
int64_t divide(const char* option, int64_t total, int64_t unit, const std::string& unit_text) {
  if (total % unit == 0) return total / unit;
  const int64_t down = total / unit * unit;
  throw UsageError("{}: {} is not a multiple of {} = {}; the nearest that are: {}{}", option, total,
                   unit_text, unit, down > 0 ? fmt::format("{} and ", down) : "", down + unit);
}

struct Accumulation {
  const char* option;
  int64_t given;       // as the user wrote it
  int64_t grad_accum;  // what it amounts to
};

// Of batch_size auto: a step's rows as one micro-batch a rank.
BatchShape whole_step(TrainConfig config, int64_t ranks) {
  config.batch_size_auto = false;
  if (config.total_batch_size || config.target_examples_per_step) {
    if (config.grad_accum)
      throw UsageError("grad_accum: says nothing beside batch_size auto and {}; leave it out",
                       config.total_batch_size ? "total_batch_size" : "target_examples_per_step");
    config.batch_size = 1;
  }
  BatchShape shape = resolve_batch(config, ranks);
  shape.batch_size *= shape.grad_accum;
  shape.grad_accum = 1;
  return shape;
}

int64_t steps_of_epochs(double epochs, uint64_t rows, int64_t rows_per_step, int64_t per_epoch) {
  const double whole = std::floor(epochs);
  const double part_rows = std::ceil((epochs - whole) * static_cast<double>(rows) - 1e-9);
  const double part_steps = std::ceil(part_rows / static_cast<double>(rows_per_step));
  const double steps = whole * static_cast<double>(per_epoch) + part_steps;
  if (steps > 9e15) throw UsageError("epochs: {} is more steps than can be counted", epochs);
  return std::max<int64_t>(1, static_cast<int64_t>(steps));
}

int64_t per_mille(int64_t steps, int64_t share) {
  return (steps * share + 500) / 1000;
}

}  // namespace

BatchShape resolve_batch(const TrainConfig& config, int64_t ranks) {
  TRAIN_SFT_CHECK(ranks >= 1, "{} ranks", ranks);
  if (config.batch_size_auto) return whole_step(config, ranks);
  BatchShape shape{config.batch_size, 1, ranks, config.block_size};
  const int64_t rows = config.batch_size * ranks;
  const std::string by_ranks = ranks > 1 ? fmt::format(" × {} ranks", ranks) : "";
  std::vector<Accumulation> said;
  if (config.grad_accum) said.push_back({"grad_accum", *config.grad_accum, *config.grad_accum});
  if (config.total_batch_size) {
    said.push_back({"total_batch_size", *config.total_batch_size,
                    divide("total_batch_size", *config.total_batch_size, rows * config.block_size,
                           fmt::format("batch_size {} × block_size {}{}", config.batch_size,
                                       config.block_size, by_ranks))});
  }
  if (config.target_examples_per_step) {
    said.push_back({"target_examples_per_step", *config.target_examples_per_step,
                    divide("target_examples_per_step", *config.target_examples_per_step, rows,
                           fmt::format("batch_size {}{}", config.batch_size, by_ranks))});
  }
  for (const Accumulation& other : said) {
    if (other.grad_accum != said[0].grad_accum) {
      throw UsageError(
          "{} {} means {} micro-batches a step, but {} {} means {}; give only one of "
          "them",
          said[0].option, said[0].given, said[0].grad_accum, other.option, other.given,
          other.grad_accum);
    }
  }
  if (!said.empty()) shape.grad_accum = said[0].grad_accum;
  return shape;
}

Recompute parse_recompute(const std::string& name) {
  if (name == "attention") return Recompute::attention;
  TRAIN_SFT_CHECK(name == "none" || name == "block", "recompute '{}'", name);
  return name == "block" ? Recompute::block : Recompute::none;
}

uint64_t resolve_max_memory(const TrainConfig& config, uint64_t allowed) {
  const std::string& text = config.max_memory;
  static const std::map<std::string, double, std::less<>> units{
      {"", 1},      {"b", 1},        {"kb", 1e3},     {"mb", 1e6},     {"gb", 1e9},
      {"tb", 1e12}, {"kib", 0x1p10}, {"mib", 0x1p20}, {"gib", 0x1p30}, {"tib", 0x1p40}};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  std::string unit(parsed.ptr, end);
  if (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto found = units.find(unit);
  const bool part = unit == "%" && number <= 100;
  if (parsed.ec != std::errc() || !(number > 0) || (found == units.end() && !part) || number > 1e18)
    throw UsageError(
        "max_memory: '{}' is not valid, expected bytes such as 8GB, 512MiB or 8000000000, or a "
        "part of the memory there is such as 90%",
        text);
  if (part) return static_cast<uint64_t>(number / 100 * static_cast<double>(allowed));
  const double bytes = number * found->second;
  if (bytes < 1e6 || bytes > 1e18)
    throw UsageError("max_memory: '{}' is {}; expected a unit such as GB, and 1 MB or more", text,
                     human_bytes(bytes));
  return static_cast<uint64_t>(bytes);
}

std::string resolve_precision(const TrainConfig& config) {
  if (config.precision == "fp8" && config.device == "cpu")
    throw UsageError(
        "precision fp8: the CPU has no 8-bit products; use --precision bf16, or --device cuda");
  return config.precision == "auto" ? "fp32" : config.precision;
}

int64_t resolve_threads(const TrainConfig& config) {
  if (config.threads > 0) return config.threads;
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
}

double RunShape::epochs() const {
  if (steps_per_epoch == 0) return 0;
  const int64_t whole = max_iters / steps_per_epoch;
  const int64_t rest = max_iters % steps_per_epoch * rows_per_step;
  return static_cast<double>(whole) + static_cast<double>(rest) / static_cast<double>(rows);
}

RunShape resolve_run(const TrainConfig& config, const BatchShape& batch, uint64_t rows) {
  if (rows == 0) {
    throw UsageError(
        "data: no row of block_size {} to train on; give more data or a smaller "
        "--block_size",
        config.block_size);
  }
  RunShape run;
  run.rows = rows;
  run.rows_per_step = batch.rows_per_step();
  run.steps_per_epoch = static_cast<int64_t>((rows + static_cast<uint64_t>(run.rows_per_step) - 1) /
                                             static_cast<uint64_t>(run.rows_per_step));
  if (config.extend_steps) {
    run.max_iters = *config.extend_steps;
  } else if (config.max_iters && *config.max_iters != -1) {
    run.max_iters = *config.max_iters;
  } else if (config.epochs) {
    run.max_iters = steps_of_epochs(*config.epochs, rows, run.rows_per_step, run.steps_per_epoch);
  } else {
    run.max_iters = run.steps_per_epoch;
  }

  run.peak_lr = config.learning_rate;
  run.min_lr = config.min_lr.value_or(config.learning_rate / 10);
  // A run shorter than its warm-up or plateau simply ends inside it.
  run.warmup_iters =
      std::min(config.warmup_iters.value_or(per_mille(run.max_iters, 25)), run.max_iters);
  const int64_t after_warmup = run.max_iters - run.warmup_iters;
  if (config.lr_schedule == "constant") {
    run.plateau_iters = after_warmup;
  } else if (config.lr_schedule == "warmup_plateau_cosine") {
    run.plateau_iters =
        std::min(config.plateau_iters.value_or(per_mille(run.max_iters, 500)), after_warmup);
  }
  run.decay_iters = after_warmup - run.plateau_iters;
  return run;
}

}  // namespace train_sft

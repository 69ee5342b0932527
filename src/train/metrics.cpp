#include "train_sft/train/metrics.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <ctime>

#include "train/step_lines.h"
#include "train/tensorboard.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/base/json_text.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

// Names this run's event files, so that a resume cuts these and no other run's in the same folder.
constexpr const char* kEventFileList = "tensorboard.json";

// JSON has no NaN and no infinity.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

std::string new_event_file_name() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {"host"};
  return fmt::format("events.out.tfevents.{}.{}.{}.train_sft", std::time(nullptr), host.data(),
                     getpid());
}

// Cuts this run's event files and returns the one to append to.
std::string prepare_event_file(const std::string& out_dir, const std::string& tensorboard_dir,
                               int64_t from_step) {
  make_directories(tensorboard_dir);
  const std::string list_path = join_path(out_dir, kEventFileList);
  Json names = Json::array();
  if (from_step > 0 && path_exists(list_path)) {
    for (const auto& name : read_json_file(list_path)) {
      const std::string path = join_path(tensorboard_dir, base_name(name.get<std::string>()));
      if (!path_exists(path)) continue;
      cut_event_file(path, from_step);
      names.push_back(name);
    }
  }
  if (names.empty()) names.push_back(new_event_file_name());
  write_file_atomically(list_path, dump_json(names));
  return join_path(tensorboard_dir, names.back().get<std::string>());
}

}  // namespace

Json to_json(const StepMetrics& metrics) {
  Json json = {{"step", metrics.step},
               {"epoch", metrics.epoch},
               {"tokens", metrics.tokens},
               {"examples", metrics.examples},
               {"loss", number(metrics.loss)},
               {"lr", metrics.lr},
               {"grad_norm", number(metrics.grad_norm)},
               {"tokens_per_s", number(metrics.tokens_per_s)},
               {"step_ms", metrics.step_ms},
               {"mfu", metrics.mfu > 0 ? Json(metrics.mfu) : Json()},
               {"data_wait_ms", metrics.data_wait_ms},
               {"memory_bytes", metrics.memory_bytes},
               {"memory_limit_bytes", metrics.memory_limit_bytes},
               {"skipped", metrics.skipped},
               {"spikes", metrics.spikes}};
  if (metrics.val_loss) {
    json["val_loss"] = number(*metrics.val_loss);
    json["val_ppl"] = number(std::exp(*metrics.val_loss));
  }
  for (const auto& [name, loss] : metrics.eval_losses) json["eval_losses"][name] = number(loss);
  for (const Sign& sign : metrics.signs) json["signs"].push_back(to_json(sign));
  return json;
}

void cut_step_lines(const std::string& path, int64_t step) {
  if (!path_exists(path)) return;
  const std::string text = read_file(path);
  const size_t keep = read_json_lines(text, [&](Json&& line) {
    return line.contains("step") && line["step"].is_number_integer() &&
           line["step"].get<int64_t>() <= step;
  });
  if (keep < text.size()) truncate_file(path, keep);
}

struct MetricsWriter::State {
  std::unique_ptr<AppendFile> lines;
  std::unique_ptr<EventFile> events;  // null without TensorBoard
};

MetricsWriter::MetricsWriter(const std::string& out_dir, const std::string& tensorboard_dir,
                             int64_t from_step)
    : state_(std::make_unique<State>()) {
  make_directories(out_dir);
  const std::string path = join_path(out_dir, "metrics.jsonl");
  cut_step_lines(path, from_step);
  state_->lines = std::make_unique<AppendFile>(path);
  if (!tensorboard_dir.empty())
    state_->events =
        std::make_unique<EventFile>(prepare_event_file(out_dir, tensorboard_dir, from_step));
}

MetricsWriter::~MetricsWriter() = default;

void MetricsWriter::write(const StepMetrics& metrics) {
  state_->lines->write(to_json(metrics).dump() + "\n");
  if (!state_->events) return;
  EventFile& events = *state_->events;
  events.scalar("train/loss", metrics.step, metrics.loss);
  events.scalar("train/lr", metrics.step, metrics.lr);
  events.scalar("train/grad_norm", metrics.step, metrics.grad_norm);
  events.scalar("train/epoch", metrics.step, metrics.epoch);
  events.scalar("speed/tokens_per_s", metrics.step, metrics.tokens_per_s);
  events.scalar("speed/step_ms", metrics.step, metrics.step_ms);
  events.scalar("speed/data_wait_ms", metrics.step, metrics.data_wait_ms);
  events.scalar("memory/resident_bytes", metrics.step, static_cast<double>(metrics.memory_bytes));
  for (const auto& [name, loss] : metrics.eval_losses)
    events.scalar("eval/" + name, metrics.step, loss);
  for (const Sign& sign : metrics.signs)
    events.text("sign/" + sign.rule, metrics.step, sign.evidence + "\n\n" + sign.advice);
  if (metrics.val_loss) {
    events.scalar("val/loss", metrics.step, *metrics.val_loss);
    events.scalar("val/perplexity", metrics.step, std::exp(*metrics.val_loss));
  }
}

void MetricsWriter::text(const std::string& tag, int64_t step, const std::string& value) {
  if (!state_->events) return;
  state_->events->text(tag, step, value);
}

void MetricsWriter::histogram(const std::string& tag, int64_t step, const Histogram& histogram) {
  if (state_->events) state_->events->histogram(tag, step, histogram);
}

bool MetricsWriter::has_tensorboard() const {
  return state_->events != nullptr;
}

void MetricsWriter::sync() {
  state_->lines->sync();
  if (state_->events) state_->events->sync();
}

}  // namespace train_sft

#include "train/run_card.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <ctime>
#include <fstream>
#include <thread>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/memory.h"
#include "train_sft/ops/kernels.h"
#include "train_sft/report/page.h"

namespace train_sft {
namespace {

constexpr uint64_t kShownExamples = 3;
constexpr uint64_t kShownTokens = 400;  // of an example

std::string card_path(const Run& run) {
  return join_path(run.out_dir, kRunCard);
}

// The card as it is; an empty object when there is none or it cannot be read.
Json read_card(const Run& run) {
  try {
    if (path_exists(card_path(run))) return read_json_file(card_path(run));
  } catch (const Error&) {
    // From a torn disk: it is written anew.
  }
  return Json::object();
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm fields{};
  gmtime_r(&now, &fields);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &fields);
  return text.data();
}

// A file of the kernel, not of the user: read beside the file seam, as in base/memory.cpp.
std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "unknown";
}

Json environment(const Run& run) {
  utsname system{};
  uname(&system);
  return {{"cpu", cpu_model()},
          {"cores", std::thread::hardware_concurrency()},
          {"threads", run.state.threads},
          {"precision", run.state.precision},
          {"kernels", ops::kernels_name(ops::kernels())},
          {"memory_bytes", resident_bytes() + available_memory_bytes()},
          {"activation_bytes", run.engine->arena_bytes()},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)}};
}

Json process() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {};
  return {{"pid", getpid()}, {"host", std::string(host.data())}};
}

Json model_card(const Run& run) {
  Json card = shape_json(run.parameters->config());
  card["params"] = run.parameters->layout().count();
  card["tokenizer"] = run.tokenizer->kind();
  return card;
}

Json length(const Run& run) {
  return {{"rows_per_step", run.batch.rows_per_step()},
          {"tokens_per_step", run.batch.tokens_per_step()},
          {"steps_per_epoch", run.shape.steps_per_epoch},
          {"max_iters", run.schedule.max_iters},
          {"epochs", run.shape.epochs()},
          {"schedule", run.state.schedule}};
}

// Runs of tokens that are learned or not, as text. A character whose bytes fall on both sides, or
// that the limit cuts, is shown as a replacement character by whoever writes the JSON.
Json example(const Run& run, uint64_t index) {
  const Dataset& data = run.data.train;
  const uint64_t begin = data.offsets[index], whole = data.offsets[index + 1] - begin;
  const uint64_t shown = std::min(whole, kShownTokens);
  Json segments = Json::array();
  std::string text;
  bool learned = false;
  // Of a text every token but the first, whatever its size: not counted one by one.
  const bool is_text = data.weights.empty();
  uint64_t learned_count = is_text && whole > 0 ? whole - 1 : 0;
  const auto close = [&] {
    if (!text.empty()) segments.push_back({{"text", text}, {"learned", learned}});
    text.clear();
  };
  for (uint64_t i = 0; i < (is_text ? shown : whole); ++i) {
    const bool now = is_text ? i > 0 : data.weights[begin + i] > 0;
    if (!is_text) learned_count += now;
    if (i >= shown) continue;
    if (now != learned) close();
    learned = now;
    const int32_t id = data.tokens[begin + i];
    const std::string name = run.tokenizer->special_name(id);
    text += name.empty() ? run.tokenizer->token_bytes(id) : name;
  }
  close();
  return {{"tokens", whole}, {"learned", learned_count}, {"shown", shown}, {"segments", segments}};
}

Json data_card(const Run& run) {
  Json card = {{"files", run.config().data},
               {"val_files", run.config().val_data},
               {"train", to_json(run.data.train.report)},
               {"overlap", run.data.overlap}};
  if (run.validation_rows) card["validation"] = to_json(run.data.validation.report);
  const uint64_t size = run.data.train.size(), shown = std::min(size, kShownExamples);
  for (uint64_t i = 0; i < shown; ++i) card["examples"].push_back(example(run, i * size / shown));
  return card;
}

void write_card(const Run& run) {
  const Json before = read_card(run);
  Json starts = Json::array();
  if (run.state.step > 0 && value_at(before, {"starts"}).is_array()) starts = before["starts"];
  starts.push_back({{"time", now_utc()}, {"step", run.state.step}, {"how", run.start.said}});
  write_file_atomically(card_path(run), dump_json({{"format", 1},
                                                   {"process", process()},
                                                   {"starts", starts},
                                                   {"ended", nullptr},
                                                   {"environment", environment(run)},
                                                   {"model", model_card(run)},
                                                   {"length", length(run)},
                                                   {"data", data_card(run)}}));
}

constexpr double kIdleShare = 50;  // of the time a page took pass before the next

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What is only for people to look at never stops a run.
template <typename Work>
void quietly(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    log::warning("{}; training goes on without it", error.what());
  }
}

}  // namespace

void write_run_card(const Run& run) {
  quietly([&] { write_card(run); });
}

void RunPage::update(const Run& run) {
  if (seconds_now() - written_at_ < kIdleShare * took_) return;
  const double begin = seconds_now();
  quietly([&] { write_report(run.out_dir); });
  written_at_ = seconds_now();
  took_ = written_at_ - begin;
}

void RunPage::finish(const Run& run, const Json& summary) {
  quietly([&] {
    Json card = read_card(run);
    card["ended"] = {{"time", now_utc()}, {"summary", summary}};
    write_file_atomically(card_path(run), dump_json(card));
    write_report(run.out_dir);
  });
}

}  // namespace train_sft

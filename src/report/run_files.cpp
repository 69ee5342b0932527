#include "train_sft/report/run_files.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json_text.h"

namespace train_sft {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
constexpr size_t kMaxSamples = 400;
constexpr std::string_view kStepPrefix = "step_";

Json read_object(const std::string& directory, const char* name) {
  const std::string path = join_path(directory, name);
  if (!path_exists(path)) return Json::object();
  const Json json = parse_json(read_file(path, kMaxFileBytes), path);
  if (!json.is_object()) throw DataError("{}: not a JSON object", path);
  return json;
}

// The last kMaxSamples; a line that is torn ends the file.
std::vector<Json> read_samples(const std::string& path) {
  std::vector<Json> samples;
  if (!path_exists(path)) return samples;
  read_json_lines(read_file(path, kMaxFileBytes), [&](Json&& line) {
    const auto is_text = [&](const char* key) {
      return line.contains(key) && line[key].is_string();
    };
    if (!line.contains("step") || !line["step"].is_number_integer() || !is_text("prompt") ||
        !is_text("sample"))
      return false;
    samples.push_back(std::move(line));
    return true;
  });
  if (samples.size() > kMaxSamples)
    samples.erase(samples.begin(), samples.end() - static_cast<std::ptrdiff_t>(kMaxSamples));
  return samples;
}

std::vector<CheckpointEntry> list_checkpoints(const std::string& directory) {
  const std::string latest = read_link(join_path(directory, "latest")),
                    best = read_link(join_path(directory, "best_model"));
  std::vector<CheckpointEntry> entries;
  for (const std::string& name : list_directory(directory)) {
    const std::string path = join_path(directory, name);
    const auto step = step_of(name);
    if (!step || !path_exists(join_path(path, "manifest.json"))) continue;
    CheckpointEntry entry{name, *step, 0, false, name == latest, name == best};
    for (const std::string& file : list_directory(path)) {
      const std::string file_path = join_path(path, file);
      if (!is_directory(file_path)) entry.bytes += file_size(file_path);
      entry.has_optimizer |= file == "optimizer.safetensors";
    }
    entries.push_back(entry);
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.step < b.step; });
  return entries;
}

// "2026-11-22 12:01:33 warning: …", in a run of several processes "… rank 0: warning: …".
std::string last_warning(const std::string& path) {
  constexpr size_t kMostBytes = 4096;
  constexpr std::string_view kMark = "warning: ";
  constexpr size_t kMostBefore = 40;  // a time, and whose line it is
  if (!path_exists(path) || file_size(path) == 0) return "";
  const MappedFile file(path);
  std::string_view end(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (end.size() > kMostBytes) end.remove_prefix(end.size() - kMostBytes);
  if (!end.ends_with('\n')) return "";
  end.remove_suffix(1);
  const std::string_view line = end.substr(end.rfind('\n') + 1);  // npos + 1 is 0
  const size_t mark = line.find(kMark);
  return mark < kMostBefore ? std::string(line.substr(mark + kMark.size())) : "";
}

// The process that wrote the card is alive and on this machine. Its lock is not tried: that could
// refuse a run that starts this moment.
bool is_alive(const Json& card) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) return false;
  const Json &pid = value_at(card, {"process", "pid"}),
             &where = value_at(card, {"process", "host"});
  if (!value_at(card, {"ended"}).is_null() || !pid.is_number_integer() || where != host.data())
    return false;
  const auto id = pid.get<int64_t>();
  return id > 0 && id < (int64_t{1} << 31) &&
         (::kill(static_cast<pid_t>(id), 0) == 0 || errno == EPERM);
}

}  // namespace

std::string step_name(int64_t step) {
  return fmt::format("{}{:08}", kStepPrefix, step);
}

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [last, error] = std::from_chars(name.data() + kStepPrefix.size(), end, step);
  if (error != std::errc() || last != end || step_name(step) != name) return std::nullopt;
  return step;
}

const Json& value_at(const Json& json, std::initializer_list<const char*> path) {
  static const Json null;
  const Json* at = &json;
  for (const char* key : path) {
    if (!at->is_object() || !at->contains(key)) return null;
    at = &(*at)[key];
  }
  return *at;
}

RunFiles read_run(const std::string& given) {
  std::string directory = given;
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  const std::string metrics = join_path(directory, "metrics.jsonl");
  if (!is_directory(directory) || !path_exists(metrics))
    throw DataError("{}: no run is there (no metrics.jsonl); give the out_dir of a training run",
                    directory);
  RunFiles run;
  run.directory = directory;
  run.name = base_name(directory);
  run.settings = read_object(directory, "config.json");
  run.card = read_object(directory, kRunCard);
  run.records = read_records(metrics);
  run.signs = signs_of(run.records);
  run.samples = read_samples(join_path(directory, "samples.jsonl"));
  run.checkpoints = list_checkpoints(directory);
  run.is_running = is_alive(run.card);
  run.last_warning = last_warning(join_path(directory, "training.log"));
  return run;
}

}  // namespace train_sft

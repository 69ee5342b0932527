// train_sft.json, presets and configuration files.
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/config/options.h"

namespace train_sft {
namespace {

constexpr const char* kDirectoryConfig = "train_sft.json";
// Keys of a configuration file that are not options.
constexpr const char* kBase = "config";              // another configuration to start from
constexpr const char* kDescription = "description";  // for people
constexpr const char* kSource = "_source";           // of a run's config.json: who set what

std::string program_directory() {
  std::string path = read_link("/proc/self/exe");
  return parent_path(path);
}

std::vector<std::string> preset_directories() {
  const std::string above = parent_path(program_directory());
  return {"configs", join_path(above, "configs"), join_path(above, "share/train_sft/configs")};
}

bool is_json_name(const std::string& name) {
  return name.size() > 5 && name.compare(name.size() - 5, 5, ".json") == 0;
}

std::string find_configuration(const std::string& name_or_path) {
  if (name_or_path.empty()) throw UsageError("config: expected a preset's name or a JSON file");
  if (name_or_path.find('/') != std::string::npos || is_json_name(name_or_path)) {
    if (!path_exists(name_or_path)) {
      throw UsageError(
          "config: no file '{}'; give the path of a JSON file or one of the presets {}",
          name_or_path, fmt::join(preset_names(), ", "));
    }
    return name_or_path;
  }
  for (const std::string& directory : preset_directories()) {
    std::string path = join_path(directory, name_or_path + ".json");
    if (path_exists(path)) return path;
  }
  const std::vector<std::string> known = preset_names();
  const std::string nearest = nearest_name(name_or_path, known);
  throw UsageError("config: no preset '{}'{}; known are {}", name_or_path,
                   nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest),
                   known.empty() ? "none (no configs/ folder found)"
                                 : fmt::format("{}", fmt::join(known, ", ")));
}

Json read_configuration(const std::string& path) {
  // A configuration that cannot be read is a mistake in the call (2), not in the data (3).
  try {
    Json json = read_json_file(path);
    if (!json.is_object()) throw DataError("{}: expected a JSON object of options", path);
    return json;
  } catch (const DataError& error) {
    throw UsageError("{}", error.what());
  }
}

// Applies a file, first the one it builds on. Without the latter when --config was given: it
// replaces what train_sft.json names, as any option given later replaces an earlier one.
void apply_file(Settings& settings, const std::string& path, const std::string& from,
                bool with_base, std::set<std::string>& open) {
  if (!open.insert(path).second) throw UsageError("{}: builds on itself through 'config'", path);
  Json json = read_configuration(path);
  if (const auto base = json.find(kBase); base != json.end()) {
    if (!base->is_string())
      throw UsageError("{}: config: expected a preset's name or a path", path);
    if (with_base) {
      const std::string base_path = find_configuration(base->get<std::string>());
      apply_file(settings, base_path, base_path, true, open);
    }
    json.erase(kBase);
  }
  apply_json(settings, json, from);
  open.erase(path);
}

}  // namespace

std::vector<std::string> preset_names() {
  std::set<std::string> names;
  for (const std::string& directory : preset_directories()) {
    if (!is_directory(directory)) continue;
    for (const std::string& file : list_directory(directory)) {
      if (is_json_name(file)) names.insert(file.substr(0, file.size() - 5));
    }
  }
  return {names.begin(), names.end()};
}

void apply_json(Settings& settings, const Json& object, const std::string& from) {
  if (!object.is_object()) throw UsageError("{}: expected a JSON object of options", from);
  const auto source = object.find(kSource);
  for (const auto& [name, value] : object.items()) {
    if (name == kDescription || name == kSource) continue;
    // A run's config.json lists every setting; only what was said then is said again.
    if (source != object.end() && !source->contains(name)) continue;
    settings.set(name, value, from);
  }
}

void apply_files(Settings& settings, const std::string& config_name_or_path) {
  std::set<std::string> open;
  if (path_exists(kDirectoryConfig)) {
    apply_file(settings, kDirectoryConfig, kDirectoryConfig, config_name_or_path.empty(), open);
  }
  if (!config_name_or_path.empty()) {
    const std::string path = find_configuration(config_name_or_path);
    apply_file(settings, path, path, true, open);
  }
}

}  // namespace train_sft

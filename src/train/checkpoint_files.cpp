#include "train/checkpoint_files.h"

#include <algorithm>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"

namespace train_sft::checkpoint_files {
namespace {

constexpr const char* kFormat = "train_sft checkpoint";
constexpr int kVersion = 1;

}  // namespace

std::string optimizer_part(int rank) {
  return rank == 0 ? kOptimizer : fmt::format("optimizer-{:05}.safetensors", rank);
}

bool is_optimizer_file(const std::string& name) {
  return name == kOptimizer || (name.starts_with("optimizer-") && name.ends_with(".safetensors"));
}

Json to_json(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, record] : manifest.files)
    files[name] = {{"bytes", record.bytes}, {"xxh3_128", record.checksum}};
  return {{"format", kFormat}, {"version", kVersion}, {"step", manifest.step}, {"files", files}};
}

Manifest read_manifest(const std::string& directory) {
  const std::string path = join_path(directory, kManifest);
  try {
    const Json json = read_json_file(path);
    const std::string format = json_string(json, "format", path);
    if (format != kFormat)
      throw CheckpointError("{}: field 'format' is '{}', expected '{}'", path, format, kFormat);
    const int64_t version = json_int(json, "version", path);
    if (version != kVersion)
      throw CheckpointError(
          "{}: version {} of the checkpoint format; this program reads version {}", path, version,
          kVersion);
    Manifest manifest;
    manifest.step = json_int(json, "step", path);
    for (const auto& [name, record] : json.at("files").items()) {
      // A manifest vouches for its own directory and leads nowhere else.
      if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
        throw CheckpointError("{}: '{}' is not a file's name", path, name);
      manifest.files[name] = {static_cast<uint64_t>(json_int(record, "bytes", path)),
                              json_string(record, "xxh3_128", path)};
    }
    return manifest;
  } catch (const DataError& error) {
    throw CheckpointError("{}", error.what());
  } catch (const Json::exception& error) {
    throw CheckpointError("{}: not a checkpoint's manifest: {}", path, error.what());
  }
}

std::vector<Found> list_checkpoints(const std::string& out_dir) {
  std::vector<Found> found;
  if (!is_directory(out_dir)) return found;
  for (const auto& name : list_directory(out_dir))
    if (const auto step = step_of(name); step && is_directory(join_path(out_dir, name)))
      found.push_back({*step, name});
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.step < b.step; });
  return found;
}

void point_links(const std::string& out_dir, int64_t latest, int64_t best) {
  const auto point = [&](const char* link, int64_t step) {
    const std::string name = step_name(step);
    if (step < 0 || !path_exists(join_path(out_dir, name))) return;
    if (link_target(out_dir, link) != name) replace_link(join_path(out_dir, link), name);
  };
  point(kLatest, latest);
  point(kBest, best);
  point(kBestPt, best);
}

std::string link_target(const std::string& out_dir, const char* link) {
  return base_name(read_link(join_path(out_dir, link)));
}

}  // namespace train_sft::checkpoint_files

#include "token_cache.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"
#include "train_sft/config/options.h"

namespace train_sft {
namespace {

constexpr int64_t kVersion = 1;
constexpr const char* kKind = "train_sft token cache";

// What tokenizer and template make of a fixed text: a key changes with their code, too.
Json rendered_sample(const Renderer& renderer, bool stream) {
  constexpr const char* kText =
      "Hello  World, it's 1,234!\n\n\tαβγ — 東京 🙂 <|im_end|>\n";
  Json sample = renderer.tokenizer.encode(kText);
  if (stream) return sample;
  Conversation conversation;
  conversation.messages = {{Role::system, "Be brief.", 1.0F, ""},
                           {Role::user, kText, 1.0F, "1 2 3"},
                           {Role::assistant, "yes", 1.0F, ""},
                           {Role::tool, "{}", 1.0F, ""},
                           {Role::assistant, kText, 0.5F, ""}};
  // A model's own template may refuse some of these roles; its Jinja names it then.
  std::string jinja = renderer.chat_template.jinja();
  try {
    const auto rendered =
        renderer.chat_template.render(renderer.tokenizer, conversation, renderer.train_on);
    return {std::move(sample), std::move(jinja), rendered.ids, rendered.weights};
  } catch (const Error&) {
    return {std::move(sample), std::move(jinja)};
  }
}

Json file_json(const DataSource& source) {
  return {{"path", source.file.path},
          {"bytes", source.file.bytes},
          {"modified_ns", source.file.modified_ns},
          {"sample", source.file.sample},
          {"checksum", source.checksum}};
}

// A manifest whose own checksum holds. Throws DataError.
Json read_manifest(const std::string& path) {
  Json manifest = parse_json(read_file(path, uint64_t{1} << 32), path);
  const std::string checksum = json_string(manifest, "checksum", path);
  manifest.erase("checksum");
  if (checksum_of(manifest.dump()) != checksum) throw DataError("{}: is damaged", path);
  if (json_string(manifest, "kind", path) != kKind) throw DataError("{}: is none of ours", path);
  return manifest;
}

void write_manifest(const std::string& path, Json manifest) {
  manifest["checksum"] = checksum_of(manifest.dump());
  write_file_atomically(path, manifest.dump(1) + "\n");
}

std::vector<std::string> paths_of(const Json& manifest) {
  std::vector<std::string> paths;
  for (const Json& file : manifest.at("files")) paths.push_back(file.at("path"));
  return paths;
}

bool is_key(const std::string& name) {
  return name.size() == 32 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The settings without what tells one state of the files from another.
Json without_contents(Json settings) {
  for (Json& file : settings.at("files")) {
    file.erase("bytes");
    file.erase("sample");
  }
  return settings;
}

}  // namespace

Json cache_settings(const std::vector<DataSource>& sources, const Renderer& renderer) {
  const TrainConfig& config = renderer.config;
  const bool stream = is_stream(sources, config);
  // Options of this group count unless it is known that the tokens do not depend on them.
  std::vector<std::string> left_out = {"data",      "val_data",       "eval_data",
                                       "tokenizer", "tokenizer_type", "packing",
                                       "seed",      "cache_dir",      "verify_data"};
  if (stream) left_out.insert(left_out.end(), {"train_on", "chat_template", "overlong"});
  Json options = Json::object();
  for (const Option& option : option_table()) {
    const bool counts = option.group == "Data" &&
                        std::find(left_out.begin(), left_out.end(), option.name) == left_out.end();
    if (counts) options[option.name] = option.get(config);
  }
  if (!stream) options["block_size"] = config.block_size;
  Json files = Json::array();
  for (const DataSource& source : sources) {
    files.push_back({{"bytes", source.file.bytes},
                     {"sample", source.file.sample},
                     {"weight", source.source.weight},
                     {"format", source.source.format},
                     {"kind", static_cast<int>(source.kind)},
                     {"validates", source.validates}});
  }
  const Tokenizer& tokenizer = renderer.tokenizer;
  return {{"version", kVersion},
          {"stream", stream},
          {"options", std::move(options)},
          {"tokenizer",
           {{"fingerprint", tokenizer.fingerprint()},
            {"vocab_size", tokenizer.vocab_size()},
            {"eos_id", tokenizer.eos_id()}}},
          {"rendered_sample", rendered_sample(renderer, stream)},
          {"files", std::move(files)}};
}

TokenCache::TokenCache(std::string cache_dir, Json settings)
    : cache_dir_(std::move(cache_dir)), settings_(std::move(settings)) {
  key_ = checksum_of(settings_.dump());
  entry_ = join_path(cache_dir_, key_);
}

std::unique_ptr<TokenCache> TokenCache::at(const TrainConfig& config, Json settings) {
  if (config.cache_dir == "none") return nullptr;
  const bool given = !config.cache_dir.empty();
  std::unique_ptr<TokenCache> cache(
      new TokenCache(given ? config.cache_dir : ".cache/train_sft", std::move(settings)));
  if (path_exists(cache->manifest_path())) return cache;
  try {
    make_directories(cache->entry_);
    write_file_atomically(join_path(cache->entry_, "writable"), "");
    remove_tree(join_path(cache->entry_, "writable"));
  } catch (const ResourceError& error) {
    if (given) throw;
    log::warning("no token cache ({}); the tokens stay in memory, --cache_dir DIR keeps them",
                 error.what());
    return nullptr;
  }
  return cache;
}

std::string TokenCache::manifest_path() const {
  return join_path(entry_, "data/manifest.json");
}

// Throws DataError naming the file that is not as it was.
void TokenCache::check_files(const Json& manifest, const std::vector<DataSource>& sources,
                             bool verify_all) const {
  const Json& files = manifest.at("files");
  if (files.size() != sources.size()) throw DataError("{}: is of other files", manifest_path());
  bool touched = false;
  for (size_t i = 0; i < sources.size(); ++i) {
    const DataFile& now = sources[i].file;
    const bool moved = files[i].at("path") != now.path;
    const bool same_time = files[i].at("modified_ns") == now.modified_ns;
    touched = touched || moved || !same_time;
    if (same_time && !moved && !verify_all) continue;
    if (is_sampled_whole(now) && !verify_all) continue;
    if (checksum_of_file(now.path) != files[i].at("checksum")) {
      throw DataError("{} has changed", now.path);
    }
  }
  if (!touched) return;
  Json updated = manifest;
  for (size_t i = 0; i < sources.size(); ++i) {
    updated["files"][i]["path"] = sources[i].file.path;
    updated["files"][i]["modified_ns"] = sources[i].file.modified_ns;
  }
  try {
    write_manifest(manifest_path(), std::move(updated));
  } catch (const ResourceError&) {
    // A cache that may only be read is as good; the next start looks again.
  }
}

std::optional<DataSplit> TokenCache::open(const std::vector<DataSource>& sources, bool verify_all,
                                          int64_t vocab_size) const {
  if (!path_exists(manifest_path())) return std::nullopt;
  try {
    const Json manifest = read_manifest(manifest_path());
    check_files(manifest, sources, verify_all);
    DataSplit split;
    const std::string directory = join_path(entry_, "data");
    uint64_t bytes = 0;
    const auto open_side = [&](const std::string& side) {
      const StoredDataset stored = stored_dataset_from_json(manifest.at(side), manifest_path());
      verify_files(stored, directory, side, verify_all);
      bytes += stored.bytes();
      Dataset dataset = open_files(stored, directory, side, vocab_size);
      dataset.rows_path = join_path(entry_, "rows_" + side);
      return dataset;
    };
    split.train = open_side("train");
    split.validation = open_side("validation");
    split.overlap = manifest.at("overlap").get<uint64_t>();
    split.unknown_vars = manifest.at("unknown_vars").get<Placeholders>();
    log::info("{} {} ({})", built_ ? "tokens kept in" : "tokens from the cache", entry_,
              human_bytes(static_cast<double>(bytes)));
    if (!lock_) remove_leftovers();
    return split;
  } catch (const DataError& error) {
    warn(error.what());
  } catch (const Json::exception& error) {
    warn(error.what());
  }
  return std::nullopt;
}

// Once: under the lock it is looked at again.
void TokenCache::warn(const std::string& fault) const {
  if (!lock_) log::warning("token cache {}: {}; it is built anew", entry_, fault);
}

void TokenCache::lock() {
  bool said = false;
  while (!lock_) {
    signals::throw_if_stopped();
    try {
      lock_ = std::make_unique<DirectoryLock>(entry_);
    } catch (const UsageError& error) {
      if (!std::exchange(said, true)) {
        log::info("waiting for the process that builds the token cache {}", entry_);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

void TokenCache::require_room(uint64_t bytes) const {
  const uint64_t free = free_bytes_at(entry_);
  if (free >= bytes) return;
  throw ResourceError(
      "{}: the token cache needs about {}, {} are free; free some space, choose another place by "
      "--cache_dir DIR, or keep the tokens in memory by --cache_dir none",
      entry_, human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(free)));
}

std::string TokenCache::parts_directory() const {
  return join_path(entry_, "parts");
}

std::string TokenCache::begin_building(bool keep_parts) {
  const std::string building = join_path(entry_, "building");
  remove_tree(building);
  make_directories(building);
  if (keep_parts) make_directories(parts_directory());
  return building;
}

void TokenCache::commit(const std::vector<DataSource>& sources, const Built& built,
                        uint64_t overlap) {
  Json files = Json::array();
  for (const DataSource& source : sources) files.push_back(file_json(source));
  const std::string building = join_path(entry_, "building");
  write_manifest(join_path(building, "manifest.json"), {{"kind", kKind},
                                                        {"settings", settings_},
                                                        {"files", std::move(files)},
                                                        {"overlap", overlap},
                                                        {"unknown_vars", built.unknown_vars},
                                                        {"train", to_json(built.train)},
                                                        {"validation", to_json(built.validation)}});
  const std::string data = join_path(entry_, "data");
  remove_tree(data);  // of an earlier state, or damaged
  for (const std::string& name : list_directory(entry_)) {
    if (name.starts_with("rows_")) remove_tree(join_path(entry_, name));
  }
  commit_directory(building, data);
  built_ = true;
  remove_tree(parts_directory());
  remove_superseded(sources);
}

bool is_token_cache(const std::string& directory) {
  return path_exists(join_path(directory, "data/manifest.json"));
}

Json inspect_token_cache(const std::string& directory) {
  const std::string data = join_path(directory, "data");
  const std::string path = join_path(data, "manifest.json");
  Json json{{"path", directory}, {"valid", true}};
  try {
    const Json manifest = read_manifest(path);
    uint64_t bytes = 0;
    for (const char* side : {"train", "validation"}) {
      const StoredDataset stored = stored_dataset_from_json(manifest.at(side), path);
      bytes += stored.bytes();
      json[side] = to_json(stored.report);
      verify_files(stored, data, side, true);
    }
    json["bytes"] = bytes;
    json["files"] = paths_of(manifest);
    json["options"] = manifest.at("settings").at("options");
    json["overlap"] = manifest.at("overlap");
  } catch (const DataError& error) {
    json["valid"] = false;
    json["fault"] = error.what();
  } catch (const Json::exception& error) {
    json["valid"] = false;
    json["fault"] = error.what();
  }
  return json;
}

// What a kill between commit and clearing left.
void TokenCache::remove_leftovers() const {
  const std::string building = join_path(entry_, "building");
  if (!path_exists(parts_directory()) && !path_exists(building)) return;
  try {
    const DirectoryLock lock(entry_);
    remove_tree(parts_directory());
    remove_tree(building);
  } catch (const Error&) {
    // Another process is at it, or this one may only read.
  }
}

void TokenCache::remove_superseded(const std::vector<DataSource>& sources) const {
  std::vector<std::string> paths;
  for (const DataSource& source : sources) paths.push_back(source.file.path);
  for (const std::string& name : list_directory(cache_dir_)) {
    const std::string other = join_path(cache_dir_, name);
    if (!is_key(name) || name == key_) continue;
    try {
      const Json manifest = read_manifest(join_path(other, "data/manifest.json"));
      if (paths_of(manifest) != paths ||
          without_contents(manifest.at("settings")) != without_contents(settings_)) {
        continue;
      }
      const DirectoryLock lock(other);
      remove_tree(other);
      log::info("removed the token cache {} of an earlier state of these files", other);
    } catch (const Error&) {
      // Not whole, in use, or not ours to remove.
    } catch (const Json::exception&) {
    }
  }
}

}  // namespace train_sft

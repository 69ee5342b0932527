// Removes and thins old checkpoints. A removal renames first: a crash in the middle leaves a name
// that the next start clears away, never half a checkpoint under a checkpoint's name.
#include <set>

#include "train/checkpoint_files.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace files = checkpoint_files;
namespace {

// A directory that only looks like a checkpoint is not ours to remove.
bool is_ours(const std::string& directory) {
  try {
    files::read_manifest(directory);
    return true;
  } catch (const CheckpointError&) {
    return false;
  }
}

void remove_checkpoint(const std::string& out_dir, const std::string& name) {
  const std::string removing = join_path(out_dir, files::kRemovingPrefix + name);
  remove_tree(removing);
  commit_directory(join_path(out_dir, name), removing);
  remove_tree(removing);
  log::debug("removed {}", join_path(out_dir, name));
}

// The manifest goes first: without the file's entry the checkpoint is a valid one of weights only,
// whether or not the file is still there.
void thin_checkpoint(const std::string& directory) {
  files::Manifest manifest = files::read_manifest(directory);
  const auto is_optimizers = [](const auto& file) { return files::is_optimizer_file(file.first); };
  if (std::erase_if(manifest.files, is_optimizers) > 0)
    write_file_atomically(join_path(directory, files::kManifest),
                          dump_json(files::to_json(manifest)));
  for (const auto& name : list_directory(directory))
    if (files::is_optimizer_file(name)) remove_tree(join_path(directory, name));
}

}  // namespace

void apply_retention(const std::string& out_dir, int64_t keep, int64_t keep_optimizer) {
  const std::set<std::string> linked = {files::link_target(out_dir, files::kLatest),
                                        files::link_target(out_dir, files::kBest),
                                        files::link_target(out_dir, files::kBestPt)};
  const std::string best = files::link_target(out_dir, files::kBest);
  const auto found = files::list_checkpoints(out_dir);
  int64_t newer = 0,
          newer_full = 0;  // checkpoints newer than this one that count towards the limits
  for (auto it = found.rbegin(); it != found.rend(); ++it) {
    const std::string directory = join_path(out_dir, it->name);
    if (!is_ours(directory)) continue;
    const bool is_best = it->name == best;
    if (linked.contains(it->name)) {
      ++newer_full;
    } else if (keep > 0 && newer >= keep) {
      remove_checkpoint(out_dir, it->name);
      continue;
    } else if (newer_full >= keep_optimizer) {
      thin_checkpoint(directory);
    } else {
      ++newer_full;
    }
    if (!is_best) ++newer;  // best is kept beside the others
  }
}

void remove_leftovers(const std::string& out_dir) {
  if (!is_directory(out_dir)) return;
  for (const auto& name : list_directory(out_dir))
    for (const std::string prefix : {files::kSavingPrefix, files::kRemovingPrefix})
      if (name.starts_with(prefix) && files::step_of(name.substr(prefix.size()))) {
        log::info("removing {}, left by an interrupted save", join_path(out_dir, name));
        remove_tree(join_path(out_dir, name));
      }
}

void supersede_checkpoints_after(const std::string& out_dir, int64_t step) {
  const auto found = files::list_checkpoints(out_dir);
  std::string current;
  for (const auto& checkpoint : found)
    if (checkpoint.step <= step) current = checkpoint.name;
  for (const auto& checkpoint : found) {
    if (checkpoint.step <= step) continue;
    // Links move first: none may point at a name that is about to change.
    for (const char* link : {files::kLatest, files::kBest, files::kBestPt})
      if (files::link_target(out_dir, link) == checkpoint.name && !current.empty())
        replace_link(join_path(out_dir, link), current);
    std::string aside = files::kSupersededPrefix + checkpoint.name;
    for (int copy = 2; path_exists(join_path(out_dir, aside)); ++copy)
      aside = fmt::format("{}{}_{}", files::kSupersededPrefix, checkpoint.name, copy);
    commit_directory(join_path(out_dir, checkpoint.name), join_path(out_dir, aside));
    log::warning(
        "{} lies beyond step {}, from which this run goes on: kept as {}; remove it when "
        "it is not needed",
        join_path(out_dir, checkpoint.name), step, aside);
  }
}

}  // namespace train_sft

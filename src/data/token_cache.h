// The token cache: what reading, rendering and splitting made of the data, kept as memory-mapped
// columns and taken up again when nothing that it depends on has changed.
//
//   <cache_dir>/<key>/data/     manifest.json, <side>.<column>: committed whole, or not there
//                     parts/    of a build that goes on, or was killed: taken up by the next
//                     building/ columns of a build, renamed to data/ when they are durable
//                     rows_*    packed rows of data/, made again when damaged
//                     .lock     held while building
// key: a checksum of the data files' sizes and samples, the tokenizer and all that rendering
// depends on. The cache may be deleted at any time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "build.h"
#include "tokenise.h"
#include "train_sft/base/file.h"

namespace train_sft {

// All that the tokens depend on.
Json cache_settings(const std::vector<DataSource>& sources, const Renderer& renderer);

class TokenCache {
 public:
  // Null when config.cache_dir is "none", or the directory cannot be written to (said in the log).
  static std::unique_ptr<TokenCache> at(const TrainConfig& config, Json settings);

  // The data, when they are there and still those of these files. Damage and change are warned of.
  std::optional<DataSplit> open(const std::vector<DataSource>& sources, bool verify_all,
                                int64_t vocab_size) const;
  // Waits while another process builds the same.
  void lock();
  // Throws ResourceError unless a build of so many bytes of columns (and parts) has room.
  void require_room(uint64_t bytes) const;
  std::string begin_building(bool keep_parts);  // the directory for the columns
  std::string parts_directory() const;
  // Makes the columns in the building directory the cache, durably, and clears away what the build
  // leaves and caches of earlier states of the same files.
  void commit(const std::vector<DataSource>& sources, const Built& built, uint64_t overlap);

 private:
  TokenCache(std::string cache_dir, Json settings);
  void check_files(const Json& manifest, const std::vector<DataSource>& sources,
                   bool verify_all) const;
  void warn(const std::string& fault) const;
  void remove_leftovers() const;
  void remove_superseded(const std::vector<DataSource>& sources) const;
  std::string manifest_path() const;

  std::string cache_dir_, entry_, key_;
  Json settings_;
  bool built_ = false;  // by this process
  std::unique_ptr<DirectoryLock> lock_;
};

}  // namespace train_sft

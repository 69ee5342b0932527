// Writes checkpoints beside training: the training thread copies weights, moments and state between
// two steps, another thread writes the copy.
#pragma once

#include <future>
#include <optional>
#include <string>

#include "train/checkpoint_contents.h"

namespace train_sft {

class CheckpointSaver {
 public:
  struct Saved {
    int64_t step = 0;
    bool is_best = false;
    std::string directory;
    std::string error;  // empty: it is durable, links moved, older ones thinned
  };

  // keep, keep_optimizer: as apply_retention, after each save.
  CheckpointSaver(std::string out_dir, int64_t keep, int64_t keep_optimizer);
  ~CheckpointSaver();  // waits

  // Saves before it returns. What goes wrong with the files is returned; a bug is thrown, as by
  // take().
  Saved save(const CheckpointContents& contents, bool is_best);
  // Copies, and saves while training goes on; when there is no memory for the copy, before it
  // returns. At most one is in flight: take() what was started before.
  void start(const CheckpointContents& contents, bool is_best);
  bool in_flight() const { return running_.valid(); }
  // What has ended since; wait: what is in flight when it has ended.
  std::optional<Saved> take(bool wait);

 private:
  using Stored = CheckpointContents::Stored;

  bool copy(const CheckpointContents& contents);

  std::string out_dir_;
  int64_t keep_, keep_optimizer_;
  CheckpointContents copy_;  // its tensors are made at the first save and kept
  std::future<Saved> running_;
};

}  // namespace train_sft

#include "train/checkpoint_saver.h"

#include <ATen/ops/empty_like.h>
#include <signal.h>

#include <chrono>
#include <cstring>

#include "train_sft/base/error.h"
#include "train_sft/base/log.h"

namespace train_sft {
namespace {

// Signals go to the training thread, whose blocking calls they shall interrupt.
class WithoutSignals {
 public:
  WithoutSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

CheckpointSaver::CheckpointSaver(std::string out_dir, int64_t keep, int64_t keep_optimizer)
    : out_dir_(std::move(out_dir)), keep_(keep), keep_optimizer_(keep_optimizer) {}

CheckpointSaver::~CheckpointSaver() {
  if (running_.valid()) running_.wait();
}

CheckpointSaver::Saved CheckpointSaver::save(const CheckpointContents& contents, bool is_best) {
  Saved saved;
  saved.step = contents.state.step;
  saved.is_best = is_best;
  try {
    saved.directory = write_checkpoint(out_dir_, contents, is_best);
    apply_retention(out_dir_, keep_, keep_optimizer_);
  } catch (const InternalError&) {
    throw;
  } catch (const Error& error) {
    saved.error = error.what();
  }
  return saved;
}

// The tensors of the copy before are used again; what is frozen is shared.
bool CheckpointSaver::copy(const CheckpointContents& contents) {
  CheckpointContents next = contents;
  const auto copy_trained = [](std::vector<Stored>& to, const std::vector<Stored>& before) {
    for (size_t i = 0; i < to.size(); ++i) {
      if (!to[i].trained) continue;
      const at::Tensor live = to[i].values;
      to[i].values = before.empty() ? at::empty_like(live) : before[i].values;
      std::memcpy(to[i].values.mutable_data_ptr(), live.const_data_ptr(), live.nbytes());
    }
  };
  try {
    copy_trained(next.model, copy_.model);
    copy_trained(next.optimizer, copy_.optimizer);
  } catch (const std::exception&) {  // LibTorch reports memory it cannot get as a general error
    log::warning(
        "no memory for a copy of weights and moments: training waits while a checkpoint is "
        "written (--save_in_background false asks for that)");
    return false;
  }
  copy_ = std::move(next);
  return true;
}

void CheckpointSaver::start(const CheckpointContents& contents, bool is_best) {
  TRAIN_SFT_CHECK(!in_flight(), "two saves at once");
  if (!copy(contents)) {
    std::promise<Saved> done;
    running_ = done.get_future();
    done.set_value(save(contents, is_best));
    return;
  }
  const WithoutSignals inherited_by_the_thread;
  running_ = std::async(std::launch::async, [this, is_best] { return save(copy_, is_best); });
}

std::optional<CheckpointSaver::Saved> CheckpointSaver::take(bool wait) {
  if (!running_.valid()) return std::nullopt;
  if (!wait && running_.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    return std::nullopt;
  return running_.get();
}

}  // namespace train_sft

#include "train/ranks.h"

#include <algorithm>

#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/collective/agreement.h"
#include "train_sft/ops/kernels.h"

namespace train_sft {
namespace {

// What may differ between ranks without the run being another: paths of this machine.
constexpr const char* kOfTheMachine[] = {"cache_dir", "log_file", "threads", "max_memory"};

void compare_settings(const Run& run) {
  Json settings = to_json(run.settings);
  for (const char* name : kOfTheMachine) settings.erase(name);
  settings.erase("_source");
  const auto all = run.collective.exchange_text(settings.dump(), "the settings");
  const Json first = Json::parse(all[0]);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    const Json other = Json::parse(all[rank]);
    for (const auto& [name, value] : first.items())
      if (other.value(name, Json()) != value)
        throw UsageError(
            "{}: is {} on rank {} and {} on rank 0; give every process the same options and "
            "configuration files",
            name, other.value(name, Json()).dump(), rank, value.dump());
  }
}

}  // namespace

int64_t batch_ranks(Run& run) {
  const int64_t processes = run.collective.size();
  if (processes > 1 && !run.settings.given("gpus"))
    run.settings.set("gpus", processes, "the number of processes");
  return run.config().gpus;
}

void check_shares(const Run& run) {
  const int64_t processes = run.collective.size();
  const int64_t micro_batches = run.batch.ranks * run.batch.grad_accum;
  if (micro_batches % processes == 0) return;
  std::string even;
  for (int64_t n = 1; n <= micro_batches; ++n)
    if (micro_batches % n == 0) even += fmt::format("{}{}", even.empty() ? "" : ", ", n);
  throw UsageError(
      "gpus: a step has gpus {} × grad_accum {} = {} micro-batches, which {} processes cannot "
      "share evenly; start {} processes, or change gpus or grad_accum",
      run.batch.ranks, run.batch.grad_accum, micro_batches, processes, even);
}

std::vector<StepRows> own_micro_batches(const BatchShape& batch, uint64_t rows_in_step, int process,
                                        int processes) {
  const auto size = static_cast<uint64_t>(batch.batch_size);
  const auto stride = static_cast<uint64_t>(processes) * size;
  std::vector<StepRows> own;
  for (uint64_t first = static_cast<uint64_t>(process) * size; first < rows_in_step;
       first += stride)
    own.push_back({first, std::min(first + size, rows_in_step)});
  return own;
}

void compare_ranks(const Run& run) {
  Collective& all = run.collective;
  if (all.size() == 1) return;  // a checksum of the weights takes its time
  constexpr const char* kSameFiles = "give every process the same files";
  require_same(all, "the start",
               fmt::format("{} {}", static_cast<int>(run.start.kind), run.start.checkpoint),
               "every process must see the same out_dir");
  require_same(all, "the training data", run.state.data_fingerprint, kSameFiles);
  std::string held_out = run.data.validation.fingerprint();
  for (const auto& set : run.eval_sets) held_out += " " + set->data.fingerprint();
  require_same(all, "the validation data", held_out, kSameFiles);
  require_same(all, "the tokenizer", run.state.tokenizer_fingerprint, kSameFiles);
  compare_settings(run);
  require_same(all, "the instruction set of the kernels", ops::kernels_name(ops::kernels()),
               "set TRAIN_SFT_CPU to the lesser one on all of them: the same update must give the "
               "same bits on every rank");
  const at::Tensor& weights = run.parameters->master();
  const std::string_view bytes(static_cast<const char*>(weights.const_data_ptr()),
                               weights.nbytes());
  require_same(all, "the checksum of the weights", checksum_of(bytes), kSameFiles);
}

bool stop_agreed(Run& run, const std::vector<double>& codes) {
  const double code = *std::max_element(codes.begin(), codes.end());
  if (code == 0) return false;
  run.stop_code = static_cast<ExitCode>(static_cast<int>(code));
  return true;
}

}  // namespace train_sft

#include "train/ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "train/tensor_bytes.h"
#include "train_sft/base/checksum.h"
#include "train_sft/base/error.h"
#include "train_sft/collective/agreement.h"
#include "train_sft/ops/kernels.h"

namespace train_sft {
namespace {

// What may differ between ranks without the run being another: paths of this machine.
constexpr const char* kOfTheMachine[] = {"cache_dir", "log_file", "threads", "max_memory"};

std::string checksum_of_weights(const Run& run) {
  const LongWork takes_its_time(run.collective);
  const Parameters& all = *run.parameters;
  const at::Tensor weights = on_cpu(all.masters_shared() ? all.compute() : all.master());
  return checksum_of(
      {static_cast<const char*>(weights.const_data_ptr()), static_cast<size_t>(weights.nbytes())});
}

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

// Which GPU, of all there are on all machines: two processes cannot share one.
std::string identity_of(const c10::Device& device) {
  std::string machine;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> machine;
  if (machine.empty()) machine = fmt::format("process {}", getpid());  // of a machine of its own
  const char* shown = std::getenv("CUDA_VISIBLE_DEVICES");
  return fmt::format("{} {} {}", machine, shown == nullptr ? "" : shown, device.str());
}

void require_devices_of_their_own(Collective& all, const c10::Device& device) {
  const auto of_rank = all.exchange_text(identity_of(device), "the GPUs");
  for (size_t b = 1; b < of_rank.size(); ++b)
    for (size_t a = 0; a < b; ++a)
      if (of_rank[a] == of_rank[b])
        throw UsageError(
            "ranks {} and {} are both on {} of one machine; start one process a GPU (--gpus N "
            "does), or give --device cpu",
            a, b, device.str());
}

// The first that goes over the transport: where it cannot work, it is said before anything is
// trained.
void try_transport(Collective& all, const c10::Device& device) {
  const double own = all.rank() + 1;
  const at::Tensor host = at::full({1}, own, at::kFloat);
  const at::Tensor there =
      at::empty({1}, at::TensorOptions().dtype(at::kFloat).device(device)).copy_(host);
  all.all_reduce(there, "joining the GPUs")->wait();
  const float sum = *on_cpu(there).const_data_ptr<float>();
  const int expected = all.size() * (all.size() + 1) / 2;
  if (sum != static_cast<float>(expected))
    throw ResourceError("the sum over the processes' GPUs is {} where it should be {}", sum,
                        expected);
}

}  // namespace

ops::ChosenDevice device_of_rank(const Run& run) {
  const std::string& asked = run.config().device;
  const ProcessPlace& place = run.collective.place();
  ops::DeviceSearch search = ops::this_machine();
  if (place.world_size == 1 || asked == "cpu") return ops::choose_device(asked, search);
  if (asked.starts_with("cuda:"))
    throw UsageError(
        "device: {} is one GPU, and there are {} processes; --device cuda gives each the one of "
        "its local rank (CUDA_VISIBLE_DEVICES says which there are)",
        asked, place.world_size);
  if (run.on_cpus && asked == "auto" && search.shows_gpu)
    return {.said = "computing on the CPU, as --procs asks; --gpus N computes on N GPUs"};
  if (run.on_cpus && asked == "cuda")
    throw UsageError(
        "device: {} contradicts procs, whose processes compute on the CPU; --gpus N starts one "
        "for each of N GPUs, --device cpu computes on the CPU",
        asked);
  search.local_rank = place.local_rank;
  return ops::choose_device(asked, search);
}

void join_devices(Run& run, const ops::ChosenDevice& chosen) {
  Collective& all = run.collective;
  if (all.size() == 1) return;
  const std::string kind = chosen.device.is_cpu() ? "cpu" : "a GPU";
  require_same(all, "the device", kind,
               "start as many processes on a machine as it has GPUs, or give --device cpu");
  if (chosen.device.is_cpu()) return;
  require_same(all, "the GPU", chosen.model,
               "the same update must give the same bits on every rank");
  require_devices_of_their_own(all, chosen.device);
  together(all, "joining the GPUs", [&] {
    if (chosen.connect == nullptr)
      throw UsageError(
          "device: this build's plugin joins no processes, since cmake found no nccl.h; build it "
          "where NCCL is, or give --device cpu");
    all.connect_devices(chosen.connect);
  });
  try_transport(all, chosen.device);
}

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
  if (run.device.is_cpu())
    require_same(all, "the instruction set of the kernels", ops::kernels_name(ops::kernels()),
                 "set TRAIN_SFT_CPU to the lesser one on all of them: the same update must give "
                 "the same bits on every rank");
  require_same(all, "the checksum of the weights", checksum_of_weights(run), kSameFiles);
}

bool stop_agreed(Run& run, const std::vector<double>& codes) {
  const double code = *std::max_element(codes.begin(), codes.end());
  if (code == 0) return false;
  run.stop_code = static_cast<ExitCode>(static_cast<int>(code));
  return true;
}

}  // namespace train_sft

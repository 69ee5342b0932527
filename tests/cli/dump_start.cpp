// dump_start RUN STEPS OUT: what a run began from. Writes the initial weights as the checkpoint
// OUT/latest, and to OUT/batches.jsonl the batches of the first steps, a JSON object a line.
//
// Both are made again from the run's config.json and tokenizer: initial weights are a pure function
// of the seed, the order of rows of (seed, epoch, data), so this is what the run computed with.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/config/options.h"
#include "train_sft/config/run_shape.h"
#include "train_sft/data/loader.h"
#include "train_sft/train/checkpoint.h"

namespace {

using namespace train_sft;

void write_batches(const TrainConfig& config, const Tokenizer& tokenizer,
                   const ChatTemplate& chat_template, uint64_t steps, const std::string& path) {
  const DataSplit data = load_data(config, tokenizer, chat_template);
  const RowTable rows(data.train, Packing::sequential, config.block_size);
  const RowOrder order(rows.size(), static_cast<uint64_t>(config.seed), true,
                       resolve_batch(config, config.gpus).rows_per_step());
  std::string lines;
  for (uint64_t step = 0; step < steps; ++step) {
    const Batch batch = make_batch(rows, order, step, 0, config.batch_size);
    lines +=
        Json{{"tokens", batch.tokens}, {"targets", batch.targets}, {"rows", batch.rows}}.dump();
    lines += '\n';
  }
  write_file_atomically(path, lines);
}

void dump(const std::string& run, uint64_t steps, const std::string& out) {
  Settings settings;
  apply_json(settings, read_json_file(join_path(run, "config.json")), "config.json");
  const TrainConfig& config = settings.config;
  const std::string trained = resolve_checkpoint(run);
  const auto tokenizer = load_tokenizer(trained);
  const auto rendering = chat_template(config.chat_template);

  Parameters parameters(read_model_config(trained), at::kFloat, at::kFloat);
  initialise(parameters, static_cast<uint64_t>(config.seed));
  Optimizer optimizer(parameters, {});
  const TrainState state;
  make_directories(out);
  save_checkpoint(out, {&parameters, &optimizer, &state, tokenizer.get(), rendering.get()}, true);
  write_batches(config, *tokenizer, *rendering, steps, join_path(out, "batches.jsonl"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: dump_start RUN STEPS OUT\n");
    return 2;
  }
  try {
    dump(argv[1], std::strtoull(argv[2], nullptr, 10), argv[3]);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

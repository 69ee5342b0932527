// For tests in Python: a checkpoint's logits and greedy continuation of given tokens, in fp32.
//
//   model_tool CHECKPOINT TOKENS LOGITS [GREEDY COUNT]
//
// TOKENS and GREEDY hold int32, LOGITS float [tokens, vocab], all raw.
#include <cstdio>
#include <cstring>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/model/decoder.h"
#include "train_sft/model/engine.h"
#include "train_sft/train/checkpoint.h"

namespace train_sft {
namespace {

void write_raw(const std::string& path, std::span<const std::byte> bytes) {
  FileWriter file(path, FileWriter::Mode::truncate);
  file.write(bytes);
  file.close();
}

Batch one_document(std::vector<int32_t> tokens) {
  Batch batch;
  for (size_t i = 0; i < tokens.size(); ++i) batch.positions.push_back(static_cast<int32_t>(i));
  batch.targets.assign(tokens.size(), kNoTarget);
  batch.cu_seqlens = {0, static_cast<int32_t>(tokens.size())};
  batch.max_seqlen = batch.cu_seqlens.back();
  batch.example_ids = {0};
  batch.rows = 1;
  batch.tokens = std::move(tokens);
  return batch;
}

void run(int count, char** words) {
  if (count != 4 && count != 6) throw UsageError("CHECKPOINT TOKENS LOGITS [GREEDY COUNT]");
  const std::string directory = resolve_checkpoint(words[1]);
  Parameters parameters(read_model_config(directory), at::kFloat, at::kFloat, false);
  load_weights(directory, parameters);
  const std::string bytes = read_file(words[2]);
  std::vector<int32_t> tokens(bytes.size() / sizeof(int32_t));
  std::memcpy(tokens.data(), bytes.data(), tokens.size() * sizeof(int32_t));
  {
    Engine engine(parameters, {});
    const at::Tensor logits = engine.logits(one_document(tokens));
    write_raw(words[3], {static_cast<const std::byte*>(logits.const_data_ptr()), logits.nbytes()});
  }
  if (count != 6) return;
  Decoder decoder(parameters);
  SamplingOptions greedy;
  greedy.temperature = 0;
  greedy.max_new_tokens = std::stoll(words[5]);
  const std::vector<int32_t> reply = generate(decoder, tokens, {}, greedy);
  write_raw(words[4], std::as_bytes(std::span(reply)));
}

}  // namespace
}  // namespace train_sft

int main(int count, char** words) {
  try {
    train_sft::run(count, words);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_tool: %s\n", error.what());
    return 1;
  }
}

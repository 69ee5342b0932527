// Chunks of input to parts: records rendered, documents encoded, by all threads.
#pragma once

#include <string>
#include <vector>

#include "chunks.h"
#include "parts.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {

TrainOn parse_train_on(const std::string& name);

struct Renderer {
  const TrainConfig& config;
  const Tokenizer& tokenizer;
  const ChatTemplate& chat_template;
  TrainOn train_on;
  ReadSettings reading;
  int token_bytes;

  Renderer(const TrainConfig& config, const Tokenizer& tokenizer,
           const ChatTemplate& chat_template);
  std::vector<std::byte> render(const Chunk& chunk, const DataSource& source) const;

 private:
  void render_text(const Chunk& chunk, PartWriter& part) const;
  void render_record(const DataRecord& record, PartWriter& part) const;
};

// Makes the parts that are not in the store yet; fills in what reading tells of the sources.
void tokenise(std::vector<DataSource>& sources, const Renderer& renderer, PartStore& parts);

}  // namespace train_sft

// A conversation with a model: its history, and the decoder that keeps what was computed for it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/loaded_model.h"
#include "cli/token_rate.h"

namespace train_sft::cli {

class ChatSession {
 public:
  ChatSession(const LoadedModel& model, SamplingOptions options, const std::string& system);

  struct Reply {
    std::string text;
    size_t prompt_tokens = 0;  // of the whole conversation as the model read it
    size_t new_tokens = 0;
    TokenRate rate;
    size_t forgotten = 0;  // oldest messages left out for want of room
  };
  // Adds the user's message, generates, adds the reply. `on_text` gets whole characters as they
  // come. Throws UsageError when the message alone does not fit the model's context.
  Reply say(const std::string& message, const std::function<void(const std::string&)>& on_text);
  void clear();

 private:
  std::vector<int32_t> fitting_prompt(Reply& reply);
  // Keeps what the decoder already holds of ids, and returns the rest, at least one.
  std::vector<int32_t> not_yet_read(const std::vector<int32_t>& ids);

  const LoadedModel& model_;
  SamplingOptions options_;
  Decoder decoder_;
  size_t first_turn_ = 0;  // 1 when messages_[0] is the system's
  std::vector<Message> messages_;
  std::vector<int32_t> read_;  // ids in the decoder
  uint64_t turn_ = 0;
};

}  // namespace train_sft::cli

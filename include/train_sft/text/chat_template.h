// Conversations to token ids with a mask of what is learned.
//
// Mask contract: ids(example) = ids(prompt exactly as chat would render it) + ids(reply) + end
// token, for every assistant turn. The mask follows from how the ids were put together; it is never
// found by searching text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "train_sft/text/tokenizer.h"

namespace train_sft {

enum class Role { system, user, assistant, tool };

struct Message {
  Role role = Role::user;
  std::string content;
  float weight = 1.0f;  // of its tokens' losses where learned; 0 = context only
  std::string input;    // an alpaca record's input; templates without a place for it add it as a
                        // line after content
};

struct Conversation {
  std::vector<Message> messages;
};

struct RenderedConversation {
  std::vector<int32_t> ids;
  std::vector<float> weights;  // per id: weight of predicting this id; 0 = context
};

enum class TrainOn { assistant, last, all };

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  virtual std::string name() const = 0;
  // What chat feeds the model before the assistant's next reply.
  virtual std::vector<int32_t> prompt(const Tokenizer& tokenizer,
                                      const std::vector<Message>& messages) const = 0;
  // What follows the last reply is left out, unless everything is learned: nothing is learned
  // there.
  virtual RenderedConversation render(const Tokenizer& tokenizer, const Conversation& conversation,
                                      TrainOn train_on) const = 0;
  virtual int32_t end_of_reply(const Tokenizer& tokenizer) const = 0;
  virtual std::string jinja() const = 0;
};

// chatml, alpaca, llama3, nanochat. Throws UsageError with the known names.
std::unique_ptr<ChatTemplate> chat_template(const std::string& name);

}  // namespace train_sft

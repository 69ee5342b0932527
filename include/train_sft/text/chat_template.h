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
  // Whether the tokenizer has every special token that the template places.
  virtual bool fits(const Tokenizer& tokenizer) const = 0;
  virtual std::string jinja() const = 0;
};

// chatml (also as auto), alpaca, llama3, nanochat, or the path of a .json file that describes one
// (docs/chat_templates.md). Throws UsageError with the known names, DataError for a file that
// cannot be used.
std::unique_ptr<ChatTemplate> chat_template(const std::string& name);

// The template that a Jinja text describes, as it stands in a model's tokenizer_config.json or GGUF
// file: ChatML with or without a default system prompt (SmolLM2, Qwen2, Qwen2.5), Llama 3, Zephyr
// and whatever else puts fixed text around messages. It is found by rendering marked messages, and
// proven by rendering others: prompts are the same text. jinja() is the text given. Throws
// DataError with the reason and the remedy for any other.
std::unique_ptr<ChatTemplate> recognise_chat_template(const std::string& jinja);

// The Jinja text beside a tokenizer, as transformers finds it: chat_template.jinja, else
// chat_template in tokenizer_config.json (of several the one named "default"); "" when there is
// none. `path` is the tokenizer's directory or a file in it.
std::string stored_chat_template(const std::string& path);

// The template for a model: the named one; with "auto" the one stored beside its tokenizer, and
// chatml when there is none. A stored one that is refused is no error until a conversation is to be
// rendered: text can be trained on without it. `path` may be "".
std::unique_ptr<ChatTemplate> chat_template_for(const std::string& name, const std::string& path);

}  // namespace train_sft

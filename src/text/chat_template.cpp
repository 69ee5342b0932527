#include "train_sft/text/chat_template.h"

#include <utility>

#include "special_tokens.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

// Puts ids together. Text between two special tokens is encoded as one stretch.
class IdBuilder {
 public:
  explicit IdBuilder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void text(std::string_view text) { pending_ += text; }
  void special(std::string_view name) {
    flush();
    ids_.push_back(id_of(tokenizer_, name));
  }
  void flush() {
    if (pending_.empty()) return;
    const std::vector<int32_t> ids = tokenizer_.encode(pending_);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    pending_.clear();
  }
  size_t size() {
    flush();
    return ids_.size();
  }
  std::vector<int32_t> take() {
    flush();
    return std::move(ids_);
  }

  static int32_t id_of(const Tokenizer& tokenizer, std::string_view name) {
    if (name == kEosName && tokenizer.eos_id() >= 0) return tokenizer.eos_id();
    if (name == kBosName && tokenizer.bos_id() >= 0) return tokenizer.bos_id();
    if (const auto id = tokenizer.special_id(name)) return *id;
    throw UsageError(
        "the tokenizer has no special token '{}', which the chat template needs. Use a tokenizer "
        "trained by this program, or another --chat_template.",
        name);
  }

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
  std::vector<int32_t> ids_;
};

std::string joined(const Message& message) {
  return message.input.empty() ? message.content : message.content + "\n" + message.input;
}

// A template as what stands around messages. The mask contract is kept here, once for all of them:
// a reply is encoded on its own, after everything that chat would have fed the model.
class TurnTemplate : public ChatTemplate {
 public:
  std::vector<int32_t> prompt(const Tokenizer& tokenizer,
                              const std::vector<Message>& messages) const override {
    IdBuilder out(tokenizer);
    for (size_t i = 0; i < messages.size(); ++i) append(out, messages, i);
    reply_header(out, messages.size());
    return out.take();
  }

  RenderedConversation render(const Tokenizer& tokenizer, const Conversation& conversation,
                              TrainOn train_on) const override {
    const std::vector<Message>& messages = conversation.messages;
    size_t end = messages.size();  // nothing after the last reply can be learned from
    if (train_on != TrainOn::all) {
      while (end > 0 && messages[end - 1].role != Role::assistant) --end;
      if (end == 0) end = messages.size();
    }
    RenderedConversation rendered;
    IdBuilder out(tokenizer);
    for (size_t i = 0; i < end; ++i) {
      const Message& message = messages[i];
      const float all_weight = train_on == TrainOn::all ? message.weight : 0.0F;
      if (message.role != Role::assistant) {
        append(out, messages, i);
        rendered.weights.resize(out.size(), all_weight);
        continue;
      }
      reply_header(out, i);
      rendered.weights.resize(out.size(), all_weight);
      reply(out, message);
      const bool learned = train_on != TrainOn::last || i + 1 == end;
      rendered.weights.resize(out.size(), learned ? message.weight : 0.0F);
    }
    rendered.ids = out.take();
    return rendered;
  }

  int32_t end_of_reply(const Tokenizer& tokenizer) const override {
    return IdBuilder::id_of(tokenizer, end_name());
  }

 protected:
  // The special token that ends a reply.
  virtual std::string_view end_name() const = 0;
  // A whole message of another role than the assistant's, the i-th.
  virtual void turn(IdBuilder& out, const std::vector<Message>& messages, size_t i) const = 0;
  // What stands before the assistant's reply when it is the i-th message.
  virtual void reply_header(IdBuilder& out, size_t i) const = 0;

 private:
  void append(IdBuilder& out, const std::vector<Message>& messages, size_t i) const {
    if (messages[i].role != Role::assistant) {
      turn(out, messages, i);
      return;
    }
    reply_header(out, i);
    reply(out, messages[i]);
  }
  void reply(IdBuilder& out, const Message& message) const {
    out.flush();
    out.text(message.content);
    out.special(end_name());
  }
};

std::string_view role_name(Role role) {
  switch (role) {
    case Role::system:
      return "system";
    case Role::user:
      return "user";
    case Role::assistant:
      return "assistant";
    case Role::tool:
      return "tool";
  }
  return "user";
}

// ChatML (OpenAI, 2023): <|im_start|>role\ncontent<|im_end|>, a newline between messages.
class Chatml : public TurnTemplate {
 public:
  std::string name() const override { return "chatml"; }
  std::string jinja() const override {
    return "{% for message in messages %}"
           "{% if not loop.first %}{{ '\\n' }}{% endif %}"
           "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
           "{% if message['input'] %}{{ '\\n' + message['input'] }}{% endif %}"
           "{{ '<|im_end|>' }}"
           "{% endfor %}"
           "{% if add_generation_prompt %}"
           "{% if messages %}{{ '\\n' }}{% endif %}{{ '<|im_start|>assistant\\n' }}"
           "{% endif %}";
  }

 protected:
  std::string_view end_name() const override { return "<|im_end|>"; }
  void turn(IdBuilder& out, const std::vector<Message>& messages, size_t i) const override {
    header(out, role_name(messages[i].role), i);
    out.text(joined(messages[i]));
    out.special("<|im_end|>");
  }
  void reply_header(IdBuilder& out, size_t i) const override { header(out, "assistant", i); }

 private:
  static void header(IdBuilder& out, std::string_view role, size_t i) {
    if (i > 0) out.text("\n");
    out.special("<|im_start|>");
    out.text(role);
    out.text("\n");
  }
};

constexpr std::string_view kAlpacaPreamble =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.";
constexpr std::string_view kAlpacaPreambleWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.";

// Stanford Alpaca's prompt (tatsu-lab/stanford_alpaca); replies end with the end-of-text token.
class Alpaca : public TurnTemplate {
 public:
  std::string name() const override { return "alpaca"; }
  std::string jinja() const override {
    return "{% for message in messages %}"
           "{% if loop.first and message['role'] != 'system' %}"
           "{% if message['input'] %}{{ '" +
           std::string(kAlpacaPreambleWithInput) +
           "' }}"
           "{% else %}{{ '" +
           std::string(kAlpacaPreamble) +
           "' }}{% endif %}{% endif %}"
           "{% if message['role'] == 'assistant' %}"
           "{{ '\\n\\n### Response:\\n' + message['content'] + eos_token }}"
           "{% elif message['role'] == 'system' %}"
           "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ message['content'] }}"
           "{% elif message['role'] == 'tool' %}"
           "{{ '\\n\\n### Tool:\\n' + message['content'] }}"
           "{% else %}"
           "{{ '\\n\\n### Instruction:\\n' + message['content'] }}"
           "{% if message['input'] %}{{ '\\n\\n### Input:\\n' + message['input'] }}{% endif %}"
           "{% endif %}"
           "{% endfor %}"
           "{% if add_generation_prompt %}"
           "{% if not messages %}{{ '" +
           std::string(kAlpacaPreamble) +
           "' }}{% endif %}"
           "{{ '\\n\\n### Response:\\n' }}{% endif %}";
  }

 protected:
  std::string_view end_name() const override { return kEosName; }
  void turn(IdBuilder& out, const std::vector<Message>& messages, size_t i) const override {
    const Message& message = messages[i];
    if (message.role == Role::system) {
      if (i > 0) out.text("\n\n");
      out.text(message.content);
      return;
    }
    if (i == 0) out.text(message.input.empty() ? kAlpacaPreamble : kAlpacaPreambleWithInput);
    out.text(message.role == Role::tool ? "\n\n### Tool:\n" : "\n\n### Instruction:\n");
    out.text(message.content);
    if (message.input.empty()) return;
    out.text("\n\n### Input:\n");
    out.text(message.input);
  }
  void reply_header(IdBuilder& out, size_t i) const override {
    if (i == 0) out.text(kAlpacaPreamble);
    out.text("\n\n### Response:\n");
  }
};

// Llama 3 (meta-llama/llama3, "Prompt format"), with the tokenizer's own beginning of text.
class Llama3 : public TurnTemplate {
 public:
  std::string name() const override { return "llama3"; }
  std::string jinja() const override {
    const std::string header = "'<|start_header_id|>' + {} + '<|end_header_id|>\\n\\n'";
    const auto with_role = [&](const std::string& role) {
      std::string out = header;
      return out.replace(out.find("{}"), 2, role);
    };
    return "{{ bos_token }}{% for message in messages %}"
           "{{ " +
           with_role("message['role']") +
           " + message['content'] }}"
           "{% if message['input'] %}{{ '\\n' + message['input'] }}{% endif %}"
           "{{ '<|eot_id|>' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ " +
           with_role("'assistant'") + " }}{% endif %}";
  }

 protected:
  std::string_view end_name() const override { return "<|eot_id|>"; }
  void turn(IdBuilder& out, const std::vector<Message>& messages, size_t i) const override {
    header(out, role_name(messages[i].role), i);
    out.text(joined(messages[i]));
    out.special("<|eot_id|>");
  }
  void reply_header(IdBuilder& out, size_t i) const override { header(out, "assistant", i); }

 private:
  static void header(IdBuilder& out, std::string_view role, size_t i) {
    if (i == 0) out.special(kBosName);
    out.special("<|start_header_id|>");
    out.text(role);
    out.special("<|end_header_id|>");
    out.text("\n\n");
  }
};

// nanochat (karpathy/nanochat, tokenizer.py): only user and assistant turns; a system message is
// put in front of the first user message, tool results are user turns.
class Nanochat : public TurnTemplate {
 public:
  std::string name() const override { return "nanochat"; }
  std::string jinja() const override {
    return "{{ bos_token }}{% for message in messages %}"
           "{% if message['role'] == 'assistant' %}"
           "{{ '<|assistant_start|>' + message['content'] + '<|assistant_end|>' }}"
           "{% elif message['role'] == 'system' %}"
           "{{ '<|user_start|>' + message['content'] + '\\n\\n' }}"
           "{% else %}"
           "{% if loop.first or messages[loop.index0 - 1]['role'] != 'system' %}"
           "{{ '<|user_start|>' }}{% endif %}"
           "{{ message['content'] }}"
           "{% if message['input'] %}{{ '\\n' + message['input'] }}{% endif %}"
           "{{ '<|user_end|>' }}{% endif %}"
           "{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}";
  }

 protected:
  std::string_view end_name() const override { return "<|assistant_end|>"; }
  void turn(IdBuilder& out, const std::vector<Message>& messages, size_t i) const override {
    if (i == 0) out.special(kBosName);
    const Message& message = messages[i];
    if (message.role == Role::system) {
      out.special("<|user_start|>");
      out.text(message.content);
      out.text("\n\n");
      return;
    }
    if (i == 0 || messages[i - 1].role != Role::system) out.special("<|user_start|>");
    out.text(joined(message));
    out.special("<|user_end|>");
  }
  void reply_header(IdBuilder& out, size_t i) const override {
    if (i == 0) out.special(kBosName);
    out.special("<|assistant_start|>");
  }
};

}  // namespace

std::unique_ptr<ChatTemplate> chat_template(const std::string& name) {
  if (name == "chatml") return std::make_unique<Chatml>();
  if (name == "alpaca") return std::make_unique<Alpaca>();
  if (name == "llama3") return std::make_unique<Llama3>();
  if (name == "nanochat") return std::make_unique<Nanochat>();
  throw UsageError("chat_template '{}' is unknown; choose chatml, alpaca, llama3 or nanochat",
                   name);
}

}  // namespace train_sft

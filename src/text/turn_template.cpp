#include <algorithm>
#include <set>
#include <utility>

#include "special_tokens.h"
#include "strip.h"
#include "template_format.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

std::optional<int32_t> token_id(const Tokenizer& tokenizer, std::string_view name) {
  if (name == kEosToken) {
    if (tokenizer.eos_id() >= 0) return tokenizer.eos_id();
    return tokenizer.special_id(kEosName);
  }
  if (name == kBosToken) {
    if (tokenizer.bos_id() >= 0) return tokenizer.bos_id();
    return tokenizer.special_id(kBosName);
  }
  return tokenizer.special_id(name);
}

// A name as special tokens are spelled, "<…>" or "[…]", at `begin`; empty when none is there.
std::string_view bracketed_name(std::string_view text, size_t begin) {
  constexpr size_t kLongestName = 64;
  const char closing = text[begin] == '<' ? '>' : text[begin] == '[' ? ']' : '\0';
  if (closing == '\0') return {};
  for (size_t i = begin + 1; i < std::min(text.size(), begin + kLongestName); ++i) {
    if (text[i] == closing) return text.substr(begin, i + 1 - begin);
    if (text[i] == ' ' || text[i] == '\n') return {};
  }
  return {};
}

// Tokens that the template places and the tokenizer does not have.
std::set<std::string> missing_tokens(const Tokenizer& tokenizer, const Transitions& all) {
  std::set<std::string> missing;
  const auto look = [&](const TemplateParts& parts) {
    for (const TemplatePart& part : parts) {
      if (part.kind == TemplatePart::Kind::token && !token_id(tokenizer, part.text))
        missing.insert(part.text);
    }
  };
  for (size_t r = 0; r < kRoles; ++r) {
    if (all.start[r]) look(*all.start[r]);
    for (size_t next = 0; next < kRoles; ++next) {
      if (all.between[r][next]) look(*all.between[r][next]);
    }
    look(all.end[r]);
  }
  if (all.start_with_input) look(*all.start_with_input);
  look(all.input);
  look(TemplateParts{{TemplatePart::Kind::token, all.end_of_reply}});
  return missing;
}

// Puts ids together. Text between two special tokens is encoded as one stretch, whose tokens have
// the weight in force where it began.
class IdBuilder {
 public:
  IdBuilder(const Tokenizer& tokenizer, const Transitions& all)
      : tokenizer_(tokenizer), all_(all) {}

  void weigh(float weight) { weight_ = weight; }
  void text(std::string_view text) {
    if (pending_.empty()) pending_weight_ = weight_;
    pending_ += text;
  }
  void token(std::string_view name) {
    flush();
    const auto id = token_id(tokenizer_, name);
    if (!id) refuse();
    ids_.push_back(*id);
    weights_.push_back(weight_);
  }
  void part(const TemplatePart& part) {
    if (part.kind == TemplatePart::Kind::token) {
      token(part.text);
    } else {
      text(part.text);
    }
  }
  void parts(const TemplateParts& parts) {
    for (const TemplatePart& one : resolved(parts)) part(one);
  }
  // Without mixed parts.
  TemplateParts resolved(const TemplateParts& parts) const {
    TemplateParts out;
    for (const TemplatePart& part : parts) {
      if (part.kind == TemplatePart::Kind::mixed) {
        cut_at_names(part.text, out);
      } else {
        out.push_back(part);
      }
    }
    return out;
  }
  void flush() {
    if (pending_.empty()) return;
    const std::vector<int32_t> ids = tokenizer_.encode(pending_);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    weights_.resize(ids_.size(), pending_weight_);
    pending_.clear();
  }
  std::vector<int32_t> take_ids() {
    flush();
    return std::move(ids_);
  }
  std::vector<float> take_weights() { return std::move(weights_); }

 private:
  void cut_at_names(std::string_view text_and_names, TemplateParts& out) const {
    std::string text;
    const auto flush_text = [&] {
      if (!text.empty()) out.push_back({TemplatePart::Kind::text, std::exchange(text, {})});
    };
    for (size_t i = 0; i < text_and_names.size();) {
      const std::string_view name = bracketed_name(text_and_names, i);
      if (!name.empty() && tokenizer_.special_id(name)) {
        flush_text();
        out.push_back({TemplatePart::Kind::token, std::string(name)});
        i += name.size();
      } else {
        text += text_and_names[i++];
      }
    }
    flush_text();
  }

  // All that is missing, not only what was met first.
  [[noreturn]] void refuse() const {
    std::string names;
    for (const std::string& name : missing_tokens(tokenizer_, all_)) {
      names += (names.empty() ? "" : ", ") + name;
    }
    throw UsageError(
        "the tokenizer has no special token {}, which the chat template needs. Use a tokenizer "
        "trained by this program, or another --chat_template (chatml, alpaca, llama3, nanochat or "
        "a file).",
        names);
  }

  const Tokenizer& tokenizer_;
  const Transitions& all_;
  std::string pending_;
  float pending_weight_ = 0.0F;
  float weight_ = 0.0F;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
};

const TemplateParts& before(const Transitions& all, const std::vector<Message>& messages, size_t i,
                            Role role) {
  const bool with_input = role == Role::user && !messages.empty() && !messages[0].input.empty();
  const std::optional<TemplateParts>& parts =
      i > 0 ? all.between[at(messages[i - 1].role)][at(role)]
            : (with_input ? all.start_with_input : all.start[at(role)]);
  if (parts) return *parts;
  throw DataError(
      "the chat template has no place for a message of the role {} {}; leave such conversations "
      "out, or give another --chat_template",
      role_name(role),
      i == 0 ? "at the beginning"
             : fmt::format("after one of {}", role_name(messages[i - 1].role)));
}

std::string_view content(const Transitions& all, const std::string& text) {
  return all.trim ? stripped(text) : std::string_view(text);
}

// Works on ids and on text alike.
template <typename Out>
void put_message(Out& out, const Transitions& all, const Message& message) {
  if (message.role == Role::assistant) {
    out.flush();  // what chat feeds ends here
    out.text(content(all, message.content));
    out.token(all.end_of_reply);
    return;
  }
  out.text(content(all, message.content));
  if (message.input.empty()) return;
  out.parts(all.input);
  out.text(content(all, message.input));
}

template <typename Out>
void put_prompt(Out& out, const Transitions& all, const std::vector<Message>& messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    out.parts(before(all, messages, i, messages[i].role));
    put_message(out, all, messages[i]);
  }
  out.parts(before(all, messages, messages.size(), Role::assistant));
}

struct TextBuilder {
  std::string out;
  void text(std::string_view text) { out += text; }
  void token(std::string_view name) { out += name; }
  void parts(const TemplateParts& parts) {
    for (const TemplatePart& part : parts) out += part.text;
  }
  void flush() {}
};

// A first special token closes the message before.
void put_weighted(IdBuilder& out, const TemplateParts& parts, float previous, float own) {
  out.weigh(previous);
  bool first = true;
  for (const TemplatePart& part : out.resolved(parts)) {
    if (!first || part.kind != TemplatePart::Kind::token) out.weigh(own);
    out.part(part);
    first = false;
  }
  out.weigh(own);
}

}  // namespace

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

std::vector<int32_t> TurnTemplate::prompt(const Tokenizer& tokenizer,
                                          const std::vector<Message>& messages) const {
  IdBuilder out(tokenizer, transitions_);
  put_prompt(out, transitions_, messages);
  return out.take_ids();
}

std::string TurnTemplate::prompt_text(const std::vector<Message>& messages) const {
  TextBuilder out;
  put_prompt(out, transitions_, messages);
  return std::move(out.out);
}

RenderedConversation TurnTemplate::render(const Tokenizer& tokenizer,
                                          const Conversation& conversation,
                                          TrainOn train_on) const {
  const std::vector<Message>& messages = conversation.messages;
  const bool all = train_on == TrainOn::all;
  size_t end = messages.size();  // nothing after the last reply can be learned from
  if (!all) {
    while (end > 0 && messages[end - 1].role != Role::assistant) --end;
    if (end == 0) end = messages.size();
  }
  IdBuilder out(tokenizer, transitions_);
  float previous = 0.0F;
  for (size_t i = 0; i < end; ++i) {
    const Message& message = messages[i];
    const float context = all ? message.weight : 0.0F;
    if (i == 0) previous = context;
    put_weighted(out, before(transitions_, messages, i, message.role), previous, context);
    previous = context;
    if (message.role == Role::assistant) {
      out.flush();
      const bool learned = train_on != TrainOn::last || i + 1 == end;
      out.weigh(learned ? message.weight : 0.0F);
    }
    put_message(out, transitions_, message);
  }
  if (end > 0) {
    out.weigh(previous);
    out.parts(transitions_.end[at(messages[end - 1].role)]);
  }
  RenderedConversation rendered;
  rendered.ids = out.take_ids();
  rendered.weights = out.take_weights();
  return rendered;
}

bool TurnTemplate::fits(const Tokenizer& tokenizer) const {
  return missing_tokens(tokenizer, transitions_).empty();
}

int32_t TurnTemplate::end_of_reply(const Tokenizer& tokenizer) const {
  if (const auto id = token_id(tokenizer, transitions_.end_of_reply)) return *id;
  IdBuilder(tokenizer, transitions_).token(transitions_.end_of_reply);
  return -1;  // not reached: token() has thrown
}

}  // namespace train_sft

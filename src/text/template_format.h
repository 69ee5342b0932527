// What a chat template puts around messages: as a person describes it (TemplateFormat), and as it
// is used (Transitions).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train_sft/base/json.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {

inline constexpr std::string_view kBosToken = "bos_token";  // the tokenizer's own, as in Jinja
inline constexpr std::string_view kEosToken = "eos_token";
inline constexpr size_t kRoles = 4;
// Its place in a table of kRoles.
inline size_t at(Role role) {
  return static_cast<size_t>(role);
}

// Plain text; a special token by its name; or text of a foreign template, in which the names of the
// tokenizer's special tokens are those tokens.
struct TemplatePart {
  enum class Kind { text, token, mixed };
  Kind kind = Kind::text;
  std::string text;
  bool operator==(const TemplatePart&) const = default;
};
using TemplateParts = std::vector<TemplatePart>;

struct RoleFormat {
  bool defined = false;
  TemplateParts prefix;
  TemplateParts suffix;                       // the assistant's begins with the end-of-reply token
  std::optional<TemplateParts> first_prefix;  // instead of prefix, before the first message
  bool joins_next = false;  // a user's or tool's message after it goes without its prefix
};

struct TemplateFormat {
  std::string name;
  TemplateParts begin;
  std::array<RoleFormat, kRoles> roles;                   // by Role
  std::optional<std::string> default_system;              // where the first message is another
  std::optional<std::string> default_system_with_input;   // where that has an input
  TemplateParts input{{TemplatePart::Kind::text, "\n"}};  // between a message and its input
  bool trim = false;                                      // messages lose white space at both ends
  const RoleFormat& role(Role r) const { return roles[static_cast<size_t>(r)]; }
};

// What stands before a message, given the one before it; nothing where the template refuses such a
// neighbourhood. between[assistant] begins after the end-of-reply token.
struct Transitions {
  std::array<std::optional<TemplateParts>, kRoles> start;
  std::optional<TemplateParts> start_with_input;  // before a user's first message with an input
  std::array<std::array<std::optional<TemplateParts>, kRoles>, kRoles> between;
  std::array<TemplateParts, kRoles> end;  // after a last message
  TemplateParts input;
  std::string end_of_reply;  // a token's name
  bool trim = false;
};

Transitions transitions(const TemplateFormat& format);
std::string jinja_of(const TemplateFormat& format);
// The file format of --chat_template (README, "Chat templates"). Throws DataError naming `where`
// and the field.
TemplateFormat parse_template_format(const Json& json, const std::string& where);

std::string_view role_name(Role role);

// The one class of templates. The mask contract is kept here: a reply is encoded on its own, after
// everything that chat would have fed the model.
class TurnTemplate : public ChatTemplate {
 public:
  TurnTemplate(std::string name, Transitions transitions, std::string jinja)
      : name_(std::move(name)), transitions_(std::move(transitions)), jinja_(std::move(jinja)) {}

  std::string name() const override { return name_; }
  std::string jinja() const override { return jinja_; }
  std::vector<int32_t> prompt(const Tokenizer& tokenizer,
                              const std::vector<Message>& messages) const override;
  RenderedConversation render(const Tokenizer& tokenizer, const Conversation& conversation,
                              TrainOn train_on) const override;
  int32_t end_of_reply(const Tokenizer& tokenizer) const override;
  bool fits(const Tokenizer& tokenizer) const override;

  // A prompt as text, special tokens by their names.
  std::string prompt_text(const std::vector<Message>& messages) const;

 private:
  std::string name_;
  Transitions transitions_;
  std::string jinja_;
};

}  // namespace train_sft

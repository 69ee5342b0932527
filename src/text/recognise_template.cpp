// A foreign Jinja template to transitions: rendered with marked messages, cut at the marks, and
// then held against the template's own rendering of conversations it was not cut from.
#include <algorithm>
#include <optional>

#include "jinja.h"
#include "template_format.h"
#include "train_sft/base/error.h"
#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

// Stand for the tokenizer's own tokens while a template is cut; no template holds control
// characters.
constexpr std::string_view kBosMark = "\x01";
constexpr std::string_view kEosMark = "\x02";
constexpr std::array<Role, kRoles> kAllRoles = {Role::system, Role::user, Role::assistant,
                                                Role::tool};

std::string mark(size_t i) {
  return fmt::format("QxZ{}ZxQ", i);
}

class Probe {
 public:
  explicit Probe(const std::string& jinja) : block_(jinja::parse(jinja)) {}

  // What stands before each message and, last, what calls for a reply. Nothing when the template
  // refuses the conversation or does not show each message once and in order.
  std::optional<std::vector<std::string>> cut(const std::vector<Role>& roles,
                                              bool generation = true) const {
    std::vector<Message> messages;
    for (size_t i = 0; i < roles.size(); ++i) messages.push_back({roles[i], mark(i), 1.0F, ""});
    const auto text = prompt(messages, generation);
    if (!text) return {};
    std::vector<std::string> pieces;
    size_t begin = 0;
    for (size_t i = 0; i < roles.size(); ++i) {
      const size_t found = text->find(mark(i));
      if (found == std::string::npos || found < begin) return {};
      pieces.push_back(text->substr(begin, found - begin));
      begin = found + mark(i).size();
    }
    pieces.push_back(text->substr(begin));
    return pieces;
  }

  std::optional<std::string> prompt(const std::vector<Message>& messages,
                                    bool generation = true) const {
    Json list = Json::array();
    for (const Message& message : messages) {
      Json json{{"role", std::string(role_name(message.role))}, {"content", message.content}};
      if (!message.input.empty()) json["input"] = message.input;
      list.push_back(std::move(json));
    }
    try {
      return jinja::render(block_, {{"messages", std::move(list)},
                                    {"add_generation_prompt", generation},
                                    {"bos_token", std::string(kBosMark)},
                                    {"eos_token", std::string(kEosMark)}});
    } catch (const jinja::Raised&) {
      return {};
    }
  }

 private:
  jinja::Block block_;
};

TemplateParts parts_of(const std::string& text) {
  TemplateParts parts;
  std::string pending;
  const auto flush = [&] {
    if (!pending.empty()) parts.push_back({TemplatePart::Kind::mixed, std::exchange(pending, {})});
  };
  for (const char c : text) {
    if (c != kBosMark[0] && c != kEosMark[0]) {
      pending += c;
      continue;
    }
    flush();
    parts.push_back(
        {TemplatePart::Kind::token, std::string(c == kBosMark[0] ? kBosToken : kEosToken)});
  }
  flush();
  return parts;
}

// Takes the token that ends a reply off the text that follows replies.
std::string take_end_of_reply(std::string& text) {
  if (text.starts_with(kEosMark)) {
    text.erase(0, kEosMark.size());
    return std::string(kEosToken);
  }
  const size_t close = text.find('>');
  if (!text.starts_with('<') || close == std::string::npos) return {};
  const std::string name = text.substr(0, close + 1);
  if (name.find_first_of(" \n") != std::string::npos) return {};
  text.erase(0, close + 1);
  return name;
}

[[noreturn]] void refuse(const std::string& why) {
  throw DataError(
      "the model's chat template is not one that can be trained with: {}. Give --chat_template "
      "chatml, alpaca, llama3 or nanochat, or a file that describes the template.",
      why);
}

class Recogniser {
 public:
  explicit Recogniser(const std::string& jinja) : probe_(jinja) {}

  Transitions run() {
    base();
    starts();
    pairs();
    input();
    trim();
    return std::move(all_);
  }
  const Probe& probe() const { return probe_; }

 private:
  // user → reply → user, which every chat template knows.
  void base() {
    const auto cut = probe_.cut({Role::user, Role::assistant, Role::user});
    if (!cut)
      refuse("it does not show a user's message, a reply and another message in this order");
    std::string after_reply = (*cut)[2];
    all_.end_of_reply = take_end_of_reply(after_reply);
    if (all_.end_of_reply.empty()) refuse("no special token follows a reply");
    if ((*cut)[1] != (*cut)[3])
      refuse("the prompt for a reply differs from what stands before past replies");
    all_.start[at(Role::user)] = parts_of((*cut)[0]);
    all_.between[at(Role::assistant)][at(Role::user)] = parts_of(after_reply);
    all_.between[at(Role::user)][at(Role::assistant)] = parts_of((*cut)[1]);
    if (const auto whole = probe_.cut({Role::user}, false))
      all_.end[at(Role::user)] = parts_of((*whole)[1]);
  }

  void starts() {
    const auto system = probe_.cut({Role::system, Role::user});
    if (system) {
      all_.start[at(Role::system)] = parts_of((*system)[0]);
      all_.between[at(Role::system)][at(Role::user)] = parts_of((*system)[1]);
    }
    if (const auto reply = probe_.cut({Role::assistant, Role::user})) {
      all_.start[at(Role::assistant)] = parts_of((*reply)[0]);
    } else if (const auto nothing = probe_.prompt({})) {
      all_.start[at(Role::assistant)] = parts_of(*nothing);
    }
  }

  // Every other neighbourhood, where the template allows it.
  void pairs() {
    const bool shows_tools = tools();
    for (const Role first : kAllRoles) {
      for (const Role second : kAllRoles) {
        const bool has_tool = first == Role::tool || second == Role::tool;
        const bool has_system = first == Role::system || second == Role::system;
        if ((has_tool && !shows_tools) || (has_system && !all_.start[at(Role::system)])) continue;
        std::optional<TemplateParts>& known = all_.between[at(first)][at(second)];
        if (known) continue;
        std::vector<Role> roles = {Role::user, Role::assistant, Role::user, Role::assistant};
        if (first == Role::user || first == Role::system) roles.pop_back();
        if (first == Role::assistant) roles.pop_back();
        roles.push_back(first);
        roles.push_back(second);
        const size_t place = roles.size() - 1;
        roles.push_back(Role::user);
        auto cut = probe_.cut(roles);
        if (!cut) continue;
        std::string text = (*cut)[place];
        if (first == Role::assistant && take_end_of_reply(text) != all_.end_of_reply) continue;
        known = parts_of(text);
      }
    }
  }

  // Whether tools have messages, and their text is shown as it is.
  bool tools() {
    const std::vector<Role> roles = {Role::user, Role::assistant, Role::tool};
    const auto cut = probe_.cut(roles);
    if (!cut) return false;
    const std::string result = "{\"a\": \"b\"}\nc";
    const auto shown = probe_.prompt({{Role::user, "u", 1.0F, ""},
                                      {Role::assistant, "r", 1.0F, ""},
                                      {Role::tool, result, 1.0F, ""}});
    if (!shown || shown->find(result) == std::string::npos) return false;
    std::string after_reply = (*cut)[2];
    if (take_end_of_reply(after_reply) != all_.end_of_reply) return false;
    all_.between[at(Role::assistant)][at(Role::tool)] = parts_of(after_reply);
    all_.between[at(Role::tool)][at(Role::assistant)] = parts_of((*cut)[3]);
    return true;
  }

  // Templates of ours have a place for an alpaca record's input.
  void input() {
    all_.start_with_input = all_.start[at(Role::user)];
    all_.input = {{TemplatePart::Kind::text, "\n"}};
    const auto text = probe_.prompt({{Role::user, mark(0), 1.0F, mark(1)}});
    if (!text) return;
    const size_t content = text->find(mark(0));
    const size_t input = text->find(mark(1));
    if (content == std::string::npos || input == std::string::npos || input < content) return;
    all_.start_with_input = parts_of(text->substr(0, content));
    const size_t end = content + mark(0).size();
    all_.input = parts_of(text->substr(end, input - end));
  }

  void trim() {
    const auto text = probe_.prompt({{Role::user, " \n" + mark(0) + "\n ", 1.0F, ""}});
    all_.trim = text && text->find(" \n" + mark(0) + "\n ") == std::string::npos;
  }

  Probe probe_;
  Transitions all_;
};

// Contents that templates might change.
Message sample(Role role, size_t i) {
  static const std::array<std::string, 5> contents = {
      "What's \"this\"?\n\n- {{ a }} {% b %}", "\n two  spaces \n\n", "é漢🙂 <b>x</b> \\n",
      "{\"name\": \"f\", \"arguments\": {}}", "1"};
  return {role, contents[i % contents.size()], 1.0F, ""};
}

using Conversations = std::vector<std::vector<Message>>;

// Questions and answers in turn, most with more turns than the transitions were cut from.
Conversations ordinary_conversations(const Transitions& all) {
  Conversations out;
  for (size_t variant = 0; variant < 24; ++variant) {
    std::vector<Message> messages;
    const auto say = [&](Role role) {
      messages.push_back(sample(role, variant + messages.size() * 3));
    };
    if (variant % 2 == 1 && all.start[at(Role::system)]) say(Role::system);
    for (size_t turn = 0; turn < 1 + variant % 4; ++turn) {
      say(Role::user);
      if (turn + 1 < 1 + variant % 4) say(Role::assistant);
    }
    out.push_back(std::move(messages));
  }
  return out;
}

// Roles one after another in every way that the transitions allow.
Conversations mixed_conversations(const Transitions& all) {
  Conversations out;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<Message> messages;
    const size_t length = 1 + mix64(seed) % 6;
    for (uint64_t draw = 1; draw < 40 && messages.size() < length; ++draw) {
      const Role role = kAllRoles[mix64(seed * 64 + draw) % kRoles];
      const bool known = messages.empty()
                             ? all.start[at(role)].has_value()
                             : all.between[at(messages.back().role)][at(role)].has_value();
      if (known) messages.push_back(sample(role, draw));
    }
    const bool calls_for_reply =
        !messages.empty() && all.between[at(messages.back().role)][at(Role::assistant)].has_value();
    if (calls_for_reply) out.push_back(std::move(messages));
  }
  return out;
}

std::string with_marks(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = std::string_view(text).substr(i);
    const bool bos = rest.starts_with(kBosToken);
    if (bos || rest.starts_with(kEosToken)) {
      out += bos ? kBosMark : kEosMark;
      i += kBosToken.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

void prove_ordinary(const Probe& probe, const Transitions& all) {
  const TurnTemplate ours("", all, "");
  for (const auto& messages : ordinary_conversations(all)) {
    const auto theirs = probe.prompt(messages);
    if (!theirs) refuse("it refuses an ordinary conversation");
    if (with_marks(ours.prompt_text(messages)) != *theirs) {
      refuse("what it puts around a message depends on more than the message before it");
    }
  }
}

// What the template refuses is no proof either way.
bool proves_mixed(const Probe& probe, const Transitions& all) {
  const TurnTemplate ours("", all, "");
  const Conversations conversations = mixed_conversations(all);
  return std::all_of(conversations.begin(), conversations.end(), [&](const auto& messages) {
    const auto theirs = probe.prompt(messages);
    return !theirs || with_marks(ours.prompt_text(messages)) == *theirs;
  });
}

// Only questions and answers in turn, after a system message or none.
void keep_ordinary(Transitions& all) {
  const auto keeps = [](Role first, Role second) {
    return (first == Role::assistant && second == Role::user) ||
           (first == Role::user && second == Role::assistant) ||
           (first == Role::system && second == Role::user);
  };
  for (const Role first : kAllRoles) {
    for (const Role second : kAllRoles) {
      if (!keeps(first, second)) all.between[at(first)][at(second)].reset();
    }
  }
  all.start[at(Role::assistant)].reset();
}

}  // namespace

std::unique_ptr<ChatTemplate> recognise_chat_template(const std::string& jinja) {
  for (const char* name : {"chatml", "alpaca", "llama3", "nanochat"}) {
    auto known = chat_template(name);
    if (known->jinja() == jinja) return known;
  }
  try {
    Recogniser recogniser(jinja);
    Transitions all = recogniser.run();
    prove_ordinary(recogniser.probe(), all);
    if (!proves_mixed(recogniser.probe(), all)) keep_ordinary(all);
    return std::make_unique<TurnTemplate>("the model's own", std::move(all), jinja);
  } catch (const DataError& error) {
    const std::string what = error.what();
    if (what.starts_with("the model's chat template")) throw;
    refuse(what);
  }
}

}  // namespace train_sft

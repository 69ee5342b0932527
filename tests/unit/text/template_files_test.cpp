// Templates from files: our own format, and other models' Jinja.
#include <gmock/gmock.h>

#include "sample_tokenizers.h"
#include "support/message_of.h"
#include "support/temporary_directory.h"
#include "text/jinja.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {
namespace {

using testing::HasSubstr;

constexpr const char* kSmol =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const Tokenizer& tokenizer() {
  return sample_tokenizer("bpe");
}

Message say(Role role, const std::string& content) {
  Message message;
  message.role = role;
  message.content = content;
  return message;
}

// Ids of text in which special tokens are written by their names.
std::vector<int32_t> ids_of(const std::vector<std::string>& parts) {
  std::vector<int32_t> ids;
  for (const std::string& part : parts) {
    if (const auto id = tokenizer().special_id(part)) {
      ids.push_back(*id);
    } else {
      const auto text = tokenizer().encode(part);
      ids.insert(ids.end(), text.begin(), text.end());
    }
  }
  return ids;
}

TEST(ForeignTemplateTest, ItsDefaultSystemPromptIsRendered) {
  const auto chat = recognise_chat_template(kSmol);
  EXPECT_EQ(chat->prompt(tokenizer(), {say(Role::user, "the cat")}),
            ids_of({"<|im_start|>", "system\nBe kind", "<|im_end|>", "\n", "<|im_start|>",
                    "user\nthe cat", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"}));
  EXPECT_EQ(chat->prompt(tokenizer(), {say(Role::system, "she"), say(Role::user, "the cat")}),
            ids_of({"<|im_start|>", "system\nshe", "<|im_end|>", "\n", "<|im_start|>",
                    "user\nthe cat", "<|im_end|>", "\n", "<|im_start|>", "assistant\n"}));
  EXPECT_EQ(chat->jinja(), kSmol);
  EXPECT_EQ(chat->end_of_reply(tokenizer()), tokenizer().special_id("<|im_end|>"));
  EXPECT_TRUE(chat->fits(tokenizer()));
}

TEST(ForeignTemplateTest, OneOfOursKeepsItsName) {
  for (const char* name : {"chatml", "alpaca", "llama3", "nanochat"}) {
    EXPECT_EQ(recognise_chat_template(chat_template(name)->jinja())->name(), name);
  }
}

TEST(ForeignTemplateTest, WhatItRefusesIsAnErrorThatNamesTheRoles) {
  const auto chat = recognise_chat_template(
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('no') }}{% endif %}{% if m.role == 'user' %}{{ '[Q]' + m.content + '[A]' "
      "}}"
      "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}");
  const std::string error = message_of<DataError>([&] {
    chat->prompt(tokenizer(), {say(Role::user, "a"), say(Role::user, "b")});
  });
  EXPECT_THAT(error, HasSubstr("user after one of user"));
  EXPECT_THAT(error, HasSubstr("--chat_template"));
  EXPECT_NO_THROW(chat->prompt(tokenizer(), {say(Role::user, "a")}));
}

TEST(ForeignTemplateTest, OneThatCannotBeTrainedWithIsRefusedWithTheRemedy) {
  const std::vector<std::string> unusable = {
      "", "no messages", "{% if %}", "{{ messages }}",
      "{% for m in messages %}{{ m.content }}{% endfor %}",
      // What stands before a message depends on its number.
      "{% for m in messages %}{{ loop.index | string + m.content + '<|im_end|>' }}{% endfor %}",
      // The prompt is not what training saw.
      "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<assistant><think>' }}{% endif %}"};
  for (const std::string& jinja : unusable) {
    const std::string error = message_of<DataError>([&] { recognise_chat_template(jinja); });
    EXPECT_THAT(error, HasSubstr("Give --chat_template")) << jinja;
  }
}

TEST(JinjaTest, HostileTemplatesEnd) {
  const std::vector<std::string> hostile = {
      std::string(70000, 'x'),
      std::string(5000, '(') + "1",
      "{{ " + std::string(5000, '(') + "1 }}",
      "{{ " + std::string(5000, '-') + "1 }}",
      "{{ " + std::string(3000, '[') + " }}",
      "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='a') %}{% for i in range(17) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}"
      "{% for i in range(999) %}{{ (ns.s + 'b') in (ns.s + ns.s) }}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}"
      "{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{{ range(99999999999) }}",
      "{{ 9223372036854775807 + 9223372036854775807 }}"};
  for (const std::string& source : hostile) {
    try {
      const std::string text = jinja::render(jinja::parse(source), Json::object());
      EXPECT_EQ(text, source) << "a text without tags";
    } catch (const DataError&) {
    }
  }
  EXPECT_EQ(jinja::render(jinja::parse("{{ '\xff' | tojson(indent=2) }}"), Json::object()),
            "\"\xEF\xBF\xBD\"");
  std::string nested;
  for (int i = 0; i < 5000; ++i) nested += "{% if true %}";
  EXPECT_THROW(jinja::parse(nested), DataError);
}

class TemplateFileTest : public testing::Test {
 protected:
  std::string file(const std::string& text) {
    write_file_atomically(directory_.path() + "/mine.json", text);
    return directory_.path() + "/mine.json";
  }
  TemporaryDirectory directory_;
};

TEST_F(TemplateFileTest, RendersWhatItSays) {
  const auto chat =
      chat_template(file(R"({"name": "mine", "begin": [{"token": "bos_token"}], "trim": true,
               "user": {"prefix": "Q: ", "suffix": "\n", "first_prefix": "First: ", "input": " | "},
               "assistant": {"prefix": "A: ", "suffix": [{"token": "eos_token"}, "\n"]}})"));
  EXPECT_EQ(chat->name(), "mine");
  Message question = say(Role::user, "  the cat\n");
  question.input = "she";
  EXPECT_EQ(chat->prompt(tokenizer(),
                         {question, say(Role::assistant, " walks "), say(Role::user, "A dog")}),
            ids_of({"<s>", "First: the cat | she\nA: ", "walks", "</s>", "\nQ: A dog\nA: "}));
  // Its Jinja says the same, by another way.
  const auto again = recognise_chat_template(chat->jinja());
  EXPECT_EQ(again->prompt(tokenizer(), {question}), chat->prompt(tokenizer(), {question}));
}

TEST_F(TemplateFileTest, MistakesAreNamedWithTheirField) {
  const std::pair<const char*, const char*> mistakes[] = {
      {"[]", "array"},
      {"{", "mine.json"},
      {R"({"user": {"prefix": "", "suffix": ""}})", "'assistant'"},
      {R"({"assistant": {"prefix": "", "suffix": [{"token": "eos_token"}]}})", "'user'"},
      {R"({"user": {"prefix": "", "suffix": ""}, "assistant": {"prefix": "", "suffix": "x"}})",
       "assistant.suffix"},
      {R"({"user": {"prefix": 3, "suffix": ""}, "assistant": {"prefix": "", "suffix": [{"token": "</s>"}]}})",
       "user.prefix"},
      {R"({"user": {"prefix": [{"tok": "x"}], "suffix": ""}, "assistant": {"prefix": "", "suffix": [{"token": "</s>"}]}})",
       "user.prefix"},
      {R"({"user": {"prefix": ""}, "assistant": {"prefix": "", "suffix": [{"token": "</s>"}]}})",
       "'suffix'"},
      {R"({"usr": {}})", "'usr'"},
      {R"({"trim": 1, "user": {"prefix": "", "suffix": ""}, "assistant": {"prefix": "", "suffix": [{"token": "</s>"}]}})",
       "'trim'"},
  };
  for (const auto& [text, named] : mistakes) {
    const std::string error =
        message_of<DataError>([&, text = text] { chat_template(file(text)); });
    EXPECT_THAT(error, HasSubstr("mine.json")) << text;
    EXPECT_THAT(error, HasSubstr(named)) << text;
  }
  EXPECT_THAT(message_of<DataError>([] { chat_template("nowhere/mine.json"); }),
              HasSubstr("no such file"));
}

TEST_F(TemplateFileTest, ATokenThatTheTokenizerLacksIsNamed) {
  const auto chat = chat_template(file(R"({"user": {"prefix": "", "suffix": ""},
               "assistant": {"prefix": [{"token": "<|bot|>"}], "suffix": [{"token": "<|fin|>"}]}})"));
  EXPECT_FALSE(chat->fits(tokenizer()));
  const std::string error =
      message_of<UsageError>([&] { chat->prompt(tokenizer(), {say(Role::user, "a")}); });
  EXPECT_THAT(error, HasSubstr("<|bot|>, <|fin|>"));
}

TEST_F(TemplateFileTest, ATokenThatOnlyALastMessageOrAnInputNeedsIsMissedBeforeItIsRendered) {
  const auto fits = [&](const std::string& input, const std::string& end) {
    return chat_template(
               file(R"({"user": {"prefix": "", "suffix": "")" + input +
                    R"(}, "assistant": {"prefix": "", "suffix": [{"token": "eos_token"})" + end +
                    "]}}"))
        ->fits(tokenizer());
  };
  EXPECT_TRUE(fits("", ""));
  EXPECT_FALSE(fits("", R"(, {"token": "<|last|>"})"));
  EXPECT_FALSE(fits(R"(, "input": [{"token": "<|in|>"}])", ""));
}

TEST_F(TemplateFileTest, TheTemplateBesideATokenizerIsFound) {
  const std::string& path = directory_.path();
  EXPECT_EQ(stored_chat_template(path), "");
  EXPECT_EQ(chat_template_for("auto", path)->name(), "chatml");
  write_file_atomically(path + "/tokenizer_config.json",
                        Json{{"chat_template", chat_template("llama3")->jinja()}}.dump());
  EXPECT_EQ(chat_template_for("auto", path)->name(), "llama3");
  EXPECT_EQ(chat_template_for("auto", path + "/tokenizer.model")->name(), "llama3");
  EXPECT_EQ(chat_template_for("alpaca", path)->name(), "alpaca");
  const Json several =
      Json::array({{{"name", "tool_use"}, {"template", "x"}},
                   {{"name", "default"}, {"template", chat_template("alpaca")->jinja()}}});
  write_file_atomically(path + "/tokenizer_config.json", Json{{"chat_template", several}}.dump());
  EXPECT_EQ(chat_template_for("auto", path)->name(), "alpaca");
  write_file_atomically(path + "/chat_template.jinja", chat_template("nanochat")->jinja());
  EXPECT_EQ(chat_template_for("auto", path)->name(), "nanochat");
}

TEST_F(TemplateFileTest, AStoredTemplateThatIsNoTextIsAnError) {
  const std::string& path = directory_.path();
  write_file_atomically(path + "/tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(stored_chat_template(path), "");
  write_file_atomically(path + "/tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(message_of<DataError>([&] { stored_chat_template(path); }),
              HasSubstr("'chat_template' is number"));
}

TEST_F(TemplateFileTest, AnUnusableOneIsNoErrorUntilAConversationIsRendered) {
  write_file_atomically(directory_.path() + "/chat_template.jinja", "{{ 'hello' }}");
  const auto chat = chat_template_for("auto", directory_.path());
  EXPECT_EQ(chat->jinja(), "{{ 'hello' }}");
  EXPECT_EQ(chat->end_of_reply(tokenizer()), tokenizer().eos_id());
  EXPECT_THAT(message_of<DataError>([&] { chat->prompt(tokenizer(), {say(Role::user, "a")}); }),
              HasSubstr("--chat_template"));
}

}  // namespace
}  // namespace train_sft

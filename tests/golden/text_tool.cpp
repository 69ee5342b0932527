// text_tool train TYPE VOCAB DOCUMENTS.json TEMPLATE OUT_DIR   trains and saves a tokenizer
// text_tool save MODEL OUT_DIR [TEMPLATE]                      loads and saves a tokenizer
// text_tool encode DIR TEXTS.json OUT.json                     ids of each text
// text_tool parse DIR TEXTS.json OUT.json                      the same, names of specials taken
// text_tool render DIR TEMPLATE CONVERSATIONS.json OUT.json    [prompt ids, ids] of each
//    TEMPLATE: a name or a file; of render also "stored": the one in DIR
// text_tool jinja CASES.json OUT.json                          text of each [template, variables]
//
// What text_huggingface_test.py and chat_template_test.py compare with transformers.
#include <cstdio>
#include <string>
#include <vector>

#include "text/jinja.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/text/bpe.h"
#include "train_sft/text/chat_template.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

void train(const std::vector<std::string>& arguments) {
  TokenizerTraining training;
  training.type = arguments[0];
  training.vocab_size = std::stoll(arguments[1]);
  const auto documents = read_json_file(arguments[2]).get<std::vector<std::string>>();
  const auto tokenizer = tokenizer_from_model(train_tokenizer(documents, training), "trained");
  tokenizer->save(arguments[4], chat_template(arguments[3])->jinja());
}

void parse(const std::vector<std::string>& arguments) {
  const auto tokenizer = bpe_tokenizer(read_bpe_definition(arguments[0] + "/tokenizer.json"), "");
  Json out = Json::array();
  for (const Json& text : read_json_file(arguments[1])) {
    out.push_back(tokenizer->encode_with_specials(text.get_ref<const std::string&>()));
  }
  write_file_atomically(arguments[2], out.dump());
}

void encode(const std::vector<std::string>& arguments) {
  const auto tokenizer = load_tokenizer(arguments[0]);
  Json out = Json::array();
  for (const Json& text : read_json_file(arguments[1])) {
    const std::string& bytes = text.get_ref<const std::string&>();
    const std::vector<int32_t> ids = tokenizer->encode(bytes);
    out.push_back(Json::array({ids, tokenizer->decode(ids) == bytes}));
  }
  write_file_atomically(arguments[2], out.dump());
}

Role role_of(const std::string& name) {
  if (name == "system") return Role::system;
  if (name == "tool") return Role::tool;
  return name == "assistant" ? Role::assistant : Role::user;
}

void render(const std::vector<std::string>& arguments) {
  const auto tokenizer = load_tokenizer(arguments[0]);
  const auto chat =
      chat_template_for(arguments[1] == "stored" ? "auto" : arguments[1], arguments[0]);
  Json out = Json::array();
  for (const Json& messages : read_json_file(arguments[2])) {
    Conversation conversation;
    for (const Json& json : messages) {
      Message message;
      message.role = role_of(json.at("role").get<std::string>());
      message.content = json.at("content").get<std::string>();
      message.input = json.value("input", "");
      conversation.messages.push_back(message);
    }
    std::vector<Message> before = conversation.messages;
    before.pop_back();
    out.push_back(Json::array({chat->prompt(*tokenizer, before),
                               chat->render(*tokenizer, conversation, TrainOn::assistant).ids}));
  }
  write_file_atomically(arguments[3], out.dump());
}

// null where the template raises an error or is beyond what is supported.
void render_jinja(const std::vector<std::string>& arguments) {
  Json out = Json::array();
  for (const Json& item : read_json_file(arguments[0])) {
    try {
      out.push_back(jinja::render(jinja::parse(item[0].get<std::string>()), item[1]));
    } catch (const DataError&) {
      out.push_back(nullptr);
    }
  }
  write_file_atomically(arguments[1], out.dump());
}

}  // namespace
}  // namespace train_sft

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) return 2;
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  try {
    if (arguments[0] == "train" && rest.size() == 5) {
      train_sft::train(rest);
    } else if (arguments[0] == "save" && (rest.size() == 2 || rest.size() == 3)) {
      train_sft::load_tokenizer(rest[0])->save(
          rest[1], rest.size() == 3 ? train_sft::chat_template(rest[2])->jinja() : "");
    } else if (arguments[0] == "jinja" && rest.size() == 2) {
      train_sft::render_jinja(rest);
    } else if (arguments[0] == "encode" && rest.size() == 3) {
      train_sft::encode(rest);
    } else if (arguments[0] == "parse" && rest.size() == 3) {
      train_sft::parse(rest);
    } else if (arguments[0] == "render" && rest.size() == 4) {
      train_sft::render(rest);
    } else {
      return 2;
    }
  } catch (const train_sft::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}

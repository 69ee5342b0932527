#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"
#include "train_sft/text/chat_template.h"

namespace train_sft {
namespace {

constexpr uint64_t kLargestFile = uint64_t{16} << 20;

std::string directory_of(const std::string& path) {
  if (path.empty() || is_directory(path)) return path;
  const std::string parent = parent_path(path);
  return parent.empty() ? "." : parent;
}

// A text, or a list of {"name", "template"}.
std::string template_in(const Json& config, const std::string& path) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array())
    throw DataError("{}: field 'chat_template' is {}, expected a text or a list of templates", path,
                    found->type_name());
  for (const Json& named : *found) {
    const bool is_template = named.is_object() && named.contains("template") &&
                             named["template"].is_string() && named.contains("name");
    if (is_template && named["name"] == "default") return named["template"].get<std::string>();
  }
  return {};
}

// Stands for a template that cannot be used. Carried on unchanged to checkpoints of text runs.
class RefusedTemplate : public ChatTemplate {
 public:
  RefusedTemplate(std::string jinja, std::string why)
      : jinja_(std::move(jinja)), why_(std::move(why)) {}

  std::string name() const override { return "the model's own (not usable)"; }
  std::string jinja() const override { return jinja_; }
  std::vector<int32_t> prompt(const Tokenizer&, const std::vector<Message>&) const override {
    throw DataError("{}", why_);
  }
  RenderedConversation render(const Tokenizer&, const Conversation&, TrainOn) const override {
    throw DataError("{}", why_);
  }
  int32_t end_of_reply(const Tokenizer& tokenizer) const override { return tokenizer.eos_id(); }
  bool fits(const Tokenizer&) const override { return true; }

 private:
  std::string jinja_;
  std::string why_;
};

}  // namespace

std::string stored_chat_template(const std::string& path) {
  const std::string directory = directory_of(path);
  if (directory.empty()) return {};
  const std::string jinja = join_path(directory, "chat_template.jinja");
  if (path_exists(jinja)) return read_file(jinja, kLargestFile);
  const std::string config = join_path(directory, "tokenizer_config.json");
  if (!path_exists(config)) return {};
  const Json json = parse_json(read_file(config, kLargestFile), config);
  return json.is_object() ? template_in(json, config) : "";
}

std::unique_ptr<ChatTemplate> chat_template_for(const std::string& name, const std::string& path) {
  if (name != "auto") return chat_template(name);
  const std::string jinja = stored_chat_template(path);
  if (jinja.empty()) return chat_template("chatml");
  try {
    return recognise_chat_template(jinja);
  } catch (const DataError& error) {
    return std::make_unique<RefusedTemplate>(jinja, error.what());
  }
}

}  // namespace train_sft

#include "formats.h"

#include <cmath>

#include "tool_calls.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

const std::string& string_field(const Json& json, const std::string& field,
                                const std::string& where) {
  const auto found = json.find(field);
  if (found == json.end()) {
    throw DataError("{}: no field '{}' in this record", where, field);
  }
  if (!found->is_string()) {
    throw DataError("{}: field '{}' is {}, expected a string", where, field, found->type_name());
  }
  return found->get_ref<const std::string&>();
}

std::string optional_string(const Json& json, const std::string& field, const std::string& where) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return {};
  return string_field(json, field, where);
}

const Json& array_field(const Json& json, const std::string& field, const std::string& where) {
  const auto found = json.find(field);
  if (found == json.end()) throw DataError("{}: no field '{}' in this record", where, field);
  if (!found->is_array()) {
    throw DataError("{}: field '{}' is {}, expected an array", where, field, found->type_name());
  }
  return *found;
}

Role role_of(const std::string& name, const std::string& field, const std::string& where) {
  if (name == "system" || name == "developer") return Role::system;
  if (name == "user" || name == "human") return Role::user;
  for (const char* assistant : {"assistant", "gpt", "chatgpt", "model", "bot", "function_call"}) {
    if (name == assistant) return Role::assistant;
  }
  for (const char* tool : {"tool", "function", "observation", "function_response"}) {
    if (name == tool) return Role::tool;
  }
  throw DataError(
      "{}: field '{}': unknown role '{}'; expected system, user (human), assistant (gpt, "
      "function_call) or tool (function, observation)",
      where, field, name);
}

// loss_weight (a number), weight (OpenAI: 0 or 1), train or training (true or false).
float weight_of(const Json& message, const std::string& where) {
  for (const char* field : {"loss_weight", "weight"}) {
    const auto found = message.find(field);
    if (found == message.end() || found->is_null()) continue;
    const double weight = found->is_number() ? found->get<double>() : -1.0;
    if (!(weight >= 0.0) || !std::isfinite(weight)) {
      throw DataError("{}: field '{}' must be a number of at least 0", where, field);
    }
    return static_cast<float>(weight);
  }
  for (const char* field : {"train", "training"}) {
    const auto found = message.find(field);
    if (found == message.end() || found->is_null()) continue;
    if (!found->is_boolean()) throw DataError("{}: field '{}' must be true or false", where, field);
    return found->get<bool>() ? 1.0F : 0.0F;
  }
  return 1.0F;
}

bool is_text_part(const std::string& type) {
  return type == "text" || type == "input_text" || type == "output_text";
}

// A string, or typed parts: {"type": "text", "text" or "value": …}, joined.
std::string content_of(const Json& message, const std::string& field, const std::string& where) {
  const auto found = message.find(field);
  if (found == message.end() || found->is_null()) {
    if (message.contains("tool_calls") || message.contains("function_call")) return {};
    throw DataError("{}: no field '{}' in a message", where, field);
  }
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    throw DataError("{}: field '{}' is {}, expected a string or an array of parts", where, field,
                    found->type_name());
  }
  std::string content;
  for (const Json& part : *found) {
    if (!part.is_object()) {
      throw DataError("{}: a part of '{}' is {}, expected an object", where, field,
                      part.type_name());
    }
    const std::string type = optional_string(part, "type", where);
    if (!is_text_part(type)) {
      throw DataError(
          "{}: a part of '{}' has type '{}'; only text can be trained on. Leave such records out.",
          where, field, type);
    }
    content += string_field(part, part.contains("text") ? "text" : "value", where);
  }
  return content;
}

Message message_of(const Json& json, const std::string& where, bool sharegpt) {
  if (!json.is_object()) {
    throw DataError("{}: a message is {}, expected an object", where, json.type_name());
  }
  const std::string role_field = sharegpt && json.contains("from") ? "from" : "role";
  Message message;
  message.role = role_of(string_field(json, role_field, where), role_field, where);
  message.content =
      content_of(json, sharegpt && json.contains("value") ? "value" : "content", where);
  std::string calls;
  if (const auto many = json.find("tool_calls"); many != json.end() && !many->is_null()) {
    calls = tool_calls_text(*many, where);
  } else if (const auto one = json.find("function_call"); one != json.end() && !one->is_null()) {
    calls = tool_calls_text(Json::array({*one}), where);
  }
  if (!calls.empty() && !message.content.empty()) message.content += '\n';
  message.content += calls;
  message.weight = weight_of(json, where);
  return message;
}

void add(Conversation& conversation, Role role, std::string content) {
  Message message;
  message.role = role;
  message.content = std::move(content);
  conversation.messages.push_back(std::move(message));
}

Conversation read_alpaca(const Json& json, const std::string& where) {
  Conversation conversation;
  std::string system = optional_string(json, "system", where);
  if (!system.empty()) add(conversation, Role::system, std::move(system));
  if (const auto history = json.find("history"); history != json.end() && !history->is_null()) {
    for (const Json& turn : array_field(json, "history", where)) {
      if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string()) {
        throw DataError("{}: field 'history' must hold pairs [instruction, reply]", where);
      }
      add(conversation, Role::user, turn[0].get<std::string>());
      add(conversation, Role::assistant, turn[1].get<std::string>());
    }
  }
  add(conversation, Role::user, string_field(json, "instruction", where));
  conversation.messages.back().input = optional_string(json, "input", where);
  add(conversation, Role::assistant, string_field(json, "output", where));
  return conversation;
}

void add_messages(Conversation& conversation, const Json& messages, const std::string& where,
                  bool sharegpt) {
  for (const Json& message : messages) {
    conversation.messages.push_back(message_of(message, where, sharegpt));
  }
}

Conversation read_prompt_completion(const Json& json, const std::string& where) {
  Conversation conversation;
  const std::string reply =
      json.contains("completion") || !json.contains("response") ? "completion" : "response";
  const std::pair<std::string, Role> halves[] = {{"prompt", Role::user}, {reply, Role::assistant}};
  for (const auto& [field, role] : halves) {
    if (json.contains(field) && json[field].is_array()) {
      add_messages(conversation, json[field], where, false);
    } else {
      add(conversation, role, string_field(json, field, where));
    }
  }
  return conversation;
}

// The tools of a tool-calling record (text or JSON) are what its replies answer from: they go into
// the system message.
std::string tools_of(const Json& json) {
  const auto tools = json.find("tools");
  if (tools == json.end() || tools->is_null()) return {};
  std::string text = tools->is_string() ? tools->get<std::string>() : spaced_json(*tools);
  return text == "[]" ? std::string() : text;
}

Conversation read_turns(const Json& json, const std::string& field, const std::string& where) {
  Conversation conversation;
  std::string system = optional_string(json, "system", where);
  if (!system.empty()) add(conversation, Role::system, std::move(system));
  add_messages(conversation, array_field(json, field, where), where, field == "conversations");
  const std::string tools = tools_of(json);
  std::vector<Message>& messages = conversation.messages;
  if (messages.empty()) throw DataError("{}: field '{}' holds no message", where, field);
  if (tools.empty()) return conversation;
  if (messages[0].role != Role::system) {
    Message first;
    first.role = Role::system;
    messages.insert(messages.begin(), std::move(first));
  }
  std::string& content = messages[0].content;
  if (!content.empty()) content += "\n\n";
  content += "Tools:\n" + tools;
  return conversation;
}

}  // namespace

std::string format_of(const Json& record) {
  if (!record.is_object()) return {};
  const auto has = [&](const char* field) { return record.contains(field); };
  if (has("messages")) return "messages";
  if (has("conversations")) return "sharegpt";
  if (has("instruction")) return "alpaca";
  if (has("prompt") && (has("completion") || has("response"))) return "prompt_completion";
  if (has("text")) return "text";
  return {};
}

DataRecord read_record(const Json& json, const std::string& format, const std::string& where) {
  if (!json.is_object()) {
    throw DataError("{}: a record is {}, expected an object", where, json.type_name());
  }
  DataRecord record;
  if (format == "text") {
    record.is_document = true;
    record.document = string_field(json, "text", where);
  } else if (format == "alpaca") {
    record.conversation = read_alpaca(json, where);
  } else if (format == "prompt_completion") {
    record.conversation = read_prompt_completion(json, where);
  } else if (format == "messages") {
    record.conversation = read_turns(json, "messages", where);
  } else if (format == "sharegpt") {
    record.conversation = read_turns(json, "conversations", where);
  } else {
    throw UsageError(
        "data_format '{}' is unknown; choose auto, text, alpaca, prompt_completion, messages or "
        "sharegpt",
        format);
  }
  return record;
}

}  // namespace train_sft

#include "template_format.h"

#include <algorithm>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

void append(TemplateParts& out, const TemplateParts& parts) {
  out.insert(out.end(), parts.begin(), parts.end());
}

const TemplateParts& prefix_at_start(const RoleFormat& role) {
  return role.first_prefix ? *role.first_prefix : role.prefix;
}

bool takes_prefix_after(const RoleFormat& previous, Role role) {
  return !previous.joins_next || (role != Role::user && role != Role::tool);
}

TemplateParts start(const TemplateFormat& format, Role role,
                    const std::optional<std::string>& default_system) {
  TemplateParts out = format.begin;
  const RoleFormat& system = format.role(Role::system);
  if (role == Role::system || !default_system) {
    append(out, prefix_at_start(format.role(role)));
    return out;
  }
  append(out, prefix_at_start(system));
  out.push_back({TemplatePart::Kind::text, *default_system});
  append(out, system.suffix);
  if (takes_prefix_after(system, role)) append(out, format.role(role).prefix);
  return out;
}

// -- Jinja

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      if (c == '\\' || c == '\'') out += '\\';
      out += c;
    }
  }
  return out + "'";
}

std::string expression(const TemplateParts& parts) {
  std::string out;
  for (const TemplatePart& part : parts) {
    if (!out.empty()) out += " + ";
    const bool variable = part.kind == TemplatePart::Kind::token &&
                          (part.text == kBosToken || part.text == kEosToken);
    out += variable ? part.text : quoted(part.text);
  }
  return out;
}

std::string shown(const TemplateParts& parts) {
  return parts.empty() ? "" : "{{ " + expression(parts) + " }}";
}

std::string when(const std::string& condition, const std::string& text,
                 const std::string& otherwise = {}) {
  if (text == otherwise) return text;
  if (text.empty()) return "{% if not (" + condition + ") %}" + otherwise + "{% endif %}";
  return "{% if " + condition + " %}" + text + (otherwise.empty() ? "" : "{% else %}" + otherwise) +
         "{% endif %}";
}

std::string default_system_jinja(const TemplateFormat& format) {
  if (!format.default_system) return {};
  const auto with = [&](const std::string& text) {
    const RoleFormat& system = format.role(Role::system);
    TemplateParts parts = prefix_at_start(system);
    parts.push_back({TemplatePart::Kind::text, text});
    append(parts, system.suffix);
    return shown(parts);
  };
  const std::string plain = with(*format.default_system);
  if (!format.default_system_with_input) return plain;
  return when("messages and messages[0]['role'] == 'user' and messages[0]['input']",
              with(*format.default_system_with_input), plain);
}

std::string prefix_jinja(const TemplateFormat& format, Role role) {
  const RoleFormat& own = format.role(role);
  std::string out = shown(own.prefix);
  const bool default_comes_first = format.default_system && role != Role::system;
  if (own.first_prefix && !default_comes_first)
    out = when("loop.first", shown(*own.first_prefix), out);
  if (takes_prefix_after(format.role(Role::system), role)) return out;
  const std::string after_system = "messages[loop.index0 - 1]['role'] == 'system'";
  return when(
      default_comes_first ? "loop.first or " + after_system : "not loop.first and " + after_system,
      "", out);
}

std::string role_jinja(const TemplateFormat& format, Role role) {
  const std::string trim = format.trim ? " | trim" : "";
  std::string out = prefix_jinja(format, role) + "{{ message['content']" + trim + " }}";
  TemplateParts suffix = format.role(role).suffix;
  if (role == Role::assistant) {
    const TemplateParts rest(suffix.begin() + 1, suffix.end());
    suffix.resize(1);
    out += shown(suffix);
    return out + when("not loop.last or add_generation_prompt", shown(rest));
  }
  out += "{% if message['input'] %}" + shown(format.input) + "{{ message['input']" + trim +
         " }}{% endif %}";
  return out + shown(suffix);
}

}  // namespace

Transitions transitions(const TemplateFormat& format) {
  Transitions all;
  for (size_t r = 0; r < kRoles; ++r) {
    const Role role = static_cast<Role>(r);
    all.start[r] = start(format, role, format.default_system);
    for (size_t p = 0; p < kRoles; ++p) {
      TemplateParts between = format.roles[p].suffix;
      if (static_cast<Role>(p) == Role::assistant) between.erase(between.begin());
      if (takes_prefix_after(format.roles[p], role)) append(between, format.roles[r].prefix);
      all.between[p][r] = std::move(between);
    }
    if (role != Role::assistant) all.end[r] = format.roles[r].suffix;
  }
  all.start_with_input = start(
      format, Role::user,
      format.default_system_with_input ? format.default_system_with_input : format.default_system);
  all.input = format.input;
  all.end_of_reply = format.role(Role::assistant).suffix.front().text;
  all.trim = format.trim;
  return all;
}

std::string jinja_of(const TemplateFormat& format) {
  std::string out = shown(format.begin) + "{% for message in messages %}";
  const std::string system = default_system_jinja(format);
  if (!system.empty()) out += when("loop.first and message['role'] != 'system'", system);
  const char* keyword = "if";
  for (const Role role : {Role::assistant, Role::system, Role::tool}) {
    if (!format.role(role).defined) continue;
    out += fmt::format("{{% {} message['role'] == '{}' %}}", keyword, role_name(role));
    out += role_jinja(format, role);
    keyword = "elif";
  }
  out += "{% else %}" + role_jinja(format, Role::user) + "{% endif %}{% endfor %}";
  out += "{% if add_generation_prompt %}";
  if (!system.empty()) out += when("not messages", system);
  const RoleFormat& reply = format.role(Role::assistant);
  out += reply.first_prefix && !format.default_system
             ? when("not messages", shown(*reply.first_prefix), shown(reply.prefix))
             : shown(reply.prefix);
  return out + "{% endif %}";
}

// -- the file

namespace {

TemplateParts parts_of(const Json& value, const std::string& field, const std::string& where) {
  if (value.is_string()) {
    if (value.get_ref<const std::string&>().empty()) return {};
    return {{TemplatePart::Kind::text, value.get<std::string>()}};
  }
  if (!value.is_array()) {
    throw DataError("{}: field '{}' is {}, expected a text or a list of texts and tokens", where,
                    field, value.type_name());
  }
  TemplateParts out;
  for (const Json& part : value) {
    const bool token = part.is_object() && part.size() == 1 && part.contains("token") &&
                       part["token"].is_string() && !part["token"].get<std::string>().empty();
    if (!token && !part.is_string()) {
      throw DataError("{}: field '{}': expected texts and {{\"token\": \"NAME\"}}, found {}", where,
                      field, part.dump());
    }
    const Json& text = token ? part["token"] : part;
    if (!text.get_ref<const std::string&>().empty()) {
      out.push_back(
          {token ? TemplatePart::Kind::token : TemplatePart::Kind::text, text.get<std::string>()});
    }
  }
  return out;
}

void check_fields(const Json& json, const std::vector<std::string>& known, const std::string& what,
                  const std::string& where) {
  if (!json.is_object())
    throw DataError("{}: {} is {}, expected an object", where, what, json.type_name());
  for (const auto& [name, value] : json.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    std::string names;
    for (const std::string& field : known) names += (names.empty() ? "" : ", ") + field;
    throw DataError("{}: {} has no field '{}'; known are {}", where, what, name, names);
  }
}

RoleFormat role_of(const Json& json, const std::string& name, const std::string& where) {
  std::vector<std::string> known = {"prefix", "suffix", "first_prefix"};
  if (name == "system") known.insert(known.end(), {"joins_next", "default", "default_with_input"});
  if (name == "user") known.emplace_back("input");
  check_fields(json, known, "'" + name + "'", where);
  RoleFormat role;
  role.defined = true;
  for (const char* field : {"prefix", "suffix"}) {
    const auto found = json.find(field);
    if (found == json.end()) throw DataError("{}: '{}' needs the field '{}'", where, name, field);
    (field == std::string_view("prefix") ? role.prefix : role.suffix) =
        parts_of(*found, name + "." + field, where);
  }
  if (json.contains("first_prefix")) {
    role.first_prefix = parts_of(json["first_prefix"], name + ".first_prefix", where);
  }
  if (const auto joins = json.find("joins_next"); joins != json.end()) {
    if (!joins->is_boolean())
      throw DataError("{}: field '{}.joins_next' must be true or false", where, name);
    role.joins_next = joins->get<bool>();
  }
  return role;
}

}  // namespace

TemplateFormat parse_template_format(const Json& json, const std::string& where) {
  check_fields(json, {"name", "begin", "system", "user", "assistant", "tool", "trim"},
               "a chat template", where);
  TemplateFormat format;
  format.name = json.contains("name") ? json_string(json, "name", where) : where;
  if (json.contains("begin")) format.begin = parts_of(json["begin"], "begin", where);
  for (const Role role : {Role::system, Role::user, Role::assistant, Role::tool}) {
    const std::string name(role_name(role));
    if (json.contains(name))
      format.roles[static_cast<size_t>(role)] = role_of(json[name], name, where);
  }
  for (const Role role : {Role::user, Role::assistant}) {
    if (!format.role(role).defined)
      throw DataError("{}: a chat template needs the field '{}'", where, role_name(role));
  }
  const TemplateParts& end = format.role(Role::assistant).suffix;
  if (end.empty() || end.front().kind != TemplatePart::Kind::token) {
    throw DataError(
        "{}: field 'assistant.suffix' must begin with the token that ends a reply, as in "
        "[{{\"token\": \"eos_token\"}}]",
        where);
  }
  if (json["user"].contains("input"))
    format.input = parts_of(json["user"]["input"], "user.input", where);
  if (const auto trim = json.find("trim"); trim != json.end()) {
    if (!trim->is_boolean()) throw DataError("{}: field 'trim' must be true or false", where);
    format.trim = trim->get<bool>();
  }
  // Left out: tool results are the user's turns; a system message stands before the user's words.
  RoleFormat& tool = format.roles[static_cast<size_t>(Role::tool)];
  if (!tool.defined) tool = format.role(Role::user);
  RoleFormat& system = format.roles[static_cast<size_t>(Role::system)];
  if (!system.defined) {
    system = format.role(Role::user);
    system.suffix = {{TemplatePart::Kind::text, "\n\n"}};
    system.joins_next = true;
    return format;
  }
  if (json["system"].contains("default"))
    format.default_system = json_string(json["system"], "default", where);
  if (json["system"].contains("default_with_input")) {
    format.default_system_with_input = json_string(json["system"], "default_with_input", where);
    if (!format.default_system)
      throw DataError("{}: 'system.default_with_input' needs 'system.default'", where);
  }
  return format;
}

}  // namespace train_sft

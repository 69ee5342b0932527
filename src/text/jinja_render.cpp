#include <map>

#include "jinja_values.h"

namespace train_sft::jinja {
namespace {

// A template is only ever rendered with a few short messages: those in use need some thousand
// steps.
constexpr uint64_t kMostSteps = 1'000'000;
constexpr uint64_t kLargestValue = 50'000;
constexpr size_t kLongestOutput = size_t{1} << 20;
constexpr int kDeepestRender = 2000;

enum class Flow { on, leave, next };

// What it costs to copy a value, about 8 bytes a unit.
uint64_t size_of(const Json& value) {
  if (value.is_string()) return 1 + value.get_ref<const std::string&>().size() / 8;
  uint64_t size = 1;
  if (value.is_structured()) {
    for (const auto& [key, item] : value.items()) size += size_of(item);
  }
  return size;
}

class Renderer {
 public:
  explicit Renderer(const Json& variables) {
    scopes_.emplace_back();
    for (const auto& [name, value] : variables.items()) scopes_[0][name] = value;
  }

  Flow run(const Block& block) {
    for (const auto& node : block) {
      const Flow flow = run(*node);
      if (flow != Flow::on) return flow;
    }
    return Flow::on;
  }
  std::string take() { return std::move(out_); }

 private:
  using Scope = std::map<std::string, Json>;

  void step(uint64_t size = 1) {
    steps_ += size;
    if (steps_ > kMostSteps) throw DataError("chat template: does not come to an end");
    if (size > kLargestValue) throw DataError("chat template: makes values without bound");
  }
  void emit(const std::string& text) {
    out_ += text;
    if (out_.size() > kLongestOutput) throw DataError("chat template: renders without bound");
  }
  Json* lookup(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto found = scope->find(name); found != scope->end()) return &found->second;
    }
    return nullptr;
  }

  // -- statements

  Flow run(const Node& node) {
    step();
    switch (node.kind) {
      case Node::Kind::text:
        emit(node.text);
        return Flow::on;
      case Node::Kind::output:
        emit(printed(value_of(*node.expressions[0])));
        return Flow::on;
      case Node::Kind::branch:
        return run(is_true(value_of(*node.expressions[0])) ? node.body : node.otherwise);
      case Node::Kind::loop:
        return loop(node);
      case Node::Kind::assign:
        assign(node);
        return Flow::on;
      case Node::Kind::assign_block:
        scopes_.back()[node.text] = captured(node.body);
        return Flow::on;
      case Node::Kind::macro:
        macros_[node.text] = &node;
        return Flow::on;
      case Node::Kind::leave:
        return Flow::leave;
      case Node::Kind::next:
        return Flow::next;
    }
    return Flow::on;
  }

  void assign(const Node& node) {
    Json value = value_of(*node.expressions[0]);
    if (node.attribute.empty()) {
      scopes_.back()[node.text] = std::move(value);
      return;
    }
    Json* space = lookup(node.text);
    if (space == nullptr || !space->is_object())
      throw Raised("chat template: '{}' is no namespace", node.text);
    (*space)[node.attribute] = std::move(value);
  }

  Flow loop(const Node& node) {
    Json items = Json::array();
    Json over = value_of(*node.expressions[0]);
    if (over.is_object()) over = method(over, "keys", {});
    if (is_undefined(over)) throw Raised("chat template: a loop over something undefined");
    if (!over.is_array())
      throw DataError("chat template: a loop over what is no list is not supported");
    for (Json& item : over) {
      if (node.expressions[1] && !chosen(node, item)) continue;
      items.push_back(std::move(item));
    }
    if (items.empty()) return run(node.otherwise);
    for (size_t i = 0; i < items.size(); ++i) {
      step();
      scopes_.emplace_back();
      bind(node, items[i]);
      scopes_.back()["loop"] = loop_state(items, i);
      const Flow flow = run(node.body);
      scopes_.pop_back();
      if (flow == Flow::leave) break;
    }
    return Flow::on;
  }
  bool chosen(const Node& node, const Json& item) {
    scopes_.emplace_back();
    bind(node, item);
    const bool chosen = is_true(value_of(*node.expressions[1]));
    scopes_.pop_back();
    return chosen;
  }
  void bind(const Node& node, const Json& item) {
    if (node.names.size() == 1) {
      scopes_.back()[node.names[0]] = item;
      return;
    }
    if (!item.is_array() || item.size() != node.names.size())
      throw Raised("chat template: values to unpack do not fit");
    for (size_t i = 0; i < node.names.size(); ++i) scopes_.back()[node.names[i]] = item[i];
  }
  static Json loop_state(const Json& items, size_t i) {
    Json loop{{"index", i + 1},
              {"index0", i},
              {"first", i == 0},
              {"last", i + 1 == items.size()},
              {"length", items.size()},
              {"revindex", items.size() - i},
              {"revindex0", items.size() - i - 1}};
    if (i > 0) loop["previtem"] = items[i - 1];
    if (i + 1 < items.size()) loop["nextitem"] = items[i + 1];
    return loop;
  }

  std::string captured(const Block& block) {
    std::string outside = std::move(out_);
    out_.clear();
    run(block);
    std::string inside = std::move(out_);
    out_ = std::move(outside);
    return inside;
  }

  // -- expressions

  Json value_of(const Expression& e) {
    if (++depth_ > kDeepestRender) throw DataError("chat template: nested too deeply");
    Json value = evaluated(e);
    --depth_;
    step(size_of(value));
    return value;
  }

  Json evaluated(const Expression& e) {
    using K = Expression::Kind;
    switch (e.kind) {
      case K::literal:
        return e.value;
      case K::name: {
        const Json* found = lookup(e.text);
        return found == nullptr ? undefined() : *found;
      }
      case K::attribute:
        return item_of(value_of(*e.parts[0]), e.text);
      case K::item:
        return item_of(value_of(*e.parts[0]), value_of(*e.parts[1]));
      case K::slice:
        return slice_of(value_of(*e.parts[0]), optional(e.parts[1]), optional(e.parts[2]),
                        optional(e.parts[3]));
      case K::call:
        return call(e);
      case K::filter:
        return filtered(e.text, value_of(*e.parts[0]), arguments(e));
      case K::test:
        return tested(e.text, value_of(*e.parts[0]), arguments(e));
      case K::unary:
        return unary(e);
      case K::binary:
        return operation(e);
      case K::condition:
        if (is_true(value_of(*e.parts[1]))) return value_of(*e.parts[0]);
        return e.parts.size() > 2 ? value_of(*e.parts[2]) : undefined();
      case K::list:
      case K::dict:
        return container(e);
    }
    return undefined();
  }

  Json optional(const ExpressionPtr& part) { return part ? value_of(*part) : undefined(); }

  Json unary(const Expression& e) {
    const Json value = value_of(*e.parts[0]);
    return e.text == "not" ? Json(!is_true(value)) : binary("-", 0, value);
  }
  Json operation(const Expression& e) {
    Json left = value_of(*e.parts[0]);
    if (e.text == "and" && !is_true(left)) return left;
    if (e.text == "or" && is_true(left)) return left;
    Json right = value_of(*e.parts[1]);
    if (e.text == "and" || e.text == "or") return right;
    return binary(e.text, left, right);
  }
  Json container(const Expression& e) {
    const bool list = e.kind == Expression::Kind::list;
    Json out = list ? Json::array() : Json::object();
    uint64_t size = 0;
    for (size_t i = 0; i < e.parts.size(); i += list ? 1 : 2) {
      Json value = value_of(*e.parts[list ? i : i + 1]);
      step(size += size_of(value));
      if (list) {
        out.push_back(std::move(value));
      } else {
        out[printed(value_of(*e.parts[i]))] = std::move(value);
      }
    }
    return out;
  }

  Arguments arguments(const Expression& e) {
    Arguments arguments;
    for (size_t i = 1; i < e.parts.size(); ++i) arguments.values.push_back(value_of(*e.parts[i]));
    for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, value_of(*value));
    return arguments;
  }

  Json call(const Expression& e) {
    const Expression& callee = *e.parts[0];
    if (callee.kind == Expression::Kind::attribute) {
      const Json object = value_of(*callee.parts[0]);
      return method(object, callee.text, arguments(e));
    }
    if (callee.kind != Expression::Kind::name)
      throw DataError("chat template: this call is not supported");
    const Arguments given = arguments(e);
    if (const auto macro = macros_.find(callee.text); macro != macros_.end())
      return call_macro(*macro->second, given);
    if (callee.text == "raise_exception")
      throw Raised("chat template: {}", printed(given.get(0, "")));
    if (callee.text == "namespace" || callee.text == "dict") {
      Json space = given.get(0, "").is_object() ? given.get(0, "") : Json::object();
      for (const auto& [name, value] : given.named) space[name] = value;
      return space;
    }
    if (callee.text == "range") return range(given);
    if (lookup(callee.text) == nullptr)
      throw DataError("chat template: the function '{}' is not supported", callee.text);
    throw DataError("chat template: '{}' cannot be called", callee.text);
  }

  static Json range(const Arguments& given) {
    const bool one = given.values.size() == 1;
    const Json from = one ? Json(0) : given.get(0, "");
    const Json to = one ? given.get(0, "") : given.get(1, "");
    if (!from.is_number_integer() || !to.is_number_integer() || given.values.size() > 2) {
      throw DataError("chat template: this form of range() is not supported");
    }
    if (to.get<int64_t>() - from.get<int64_t>() > static_cast<int64_t>(kLargestValue))
      throw DataError("chat template: a range() without bound");
    Json out = Json::array();
    for (int64_t i = from.get<int64_t>(); i < to.get<int64_t>(); ++i) out.push_back(i);
    return out;
  }

  Json call_macro(const Node& macro, const Arguments& given) {
    if (++depth_ > kDeepestRender / 20) throw DataError("chat template: macros nested too deeply");
    Scope scope;
    for (size_t i = 0; i < macro.names.size(); ++i) {
      Json value = given.get(i, macro.names[i]);
      if (is_undefined(value) && macro.expressions[i]) value = value_of(*macro.expressions[i]);
      scope[macro.names[i]] = std::move(value);
    }
    // A macro sees the template's own variables, not those of the place it is called from.
    std::vector<Scope> outside(std::make_move_iterator(scopes_.begin() + 1),
                               std::make_move_iterator(scopes_.end()));
    scopes_.resize(1);
    scopes_.push_back(std::move(scope));
    Json text = captured(macro.body);
    scopes_.resize(1);
    for (Scope& kept : outside) scopes_.push_back(std::move(kept));
    --depth_;
    return text;
  }

  std::vector<Scope> scopes_;
  std::map<std::string, const Node*> macros_;
  std::string out_;
  uint64_t steps_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string render(const Block& block, const Json& variables) {
  Renderer renderer(variables);
  renderer.run(block);
  return renderer.take();
}

}  // namespace train_sft::jinja

#include <algorithm>
#include <array>

#include "jinja.h"
#include "jinja_lexer.h"

namespace train_sft::jinja {
namespace {

using Kind = Token::Kind;
using Names = std::vector<std::string>;
constexpr int kDeepestParse = 100;

ExpressionPtr make(Expression::Kind kind, std::string text = {}) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->text = std::move(text);
  return expression;
}

ExpressionPtr make(Expression::Kind kind, std::string text, ExpressionPtr first,
                   ExpressionPtr second = {}) {
  auto expression = make(kind, std::move(text));
  expression->parts.push_back(std::move(first));
  if (second) expression->parts.push_back(std::move(second));
  return expression;
}

ExpressionPtr literal(Json value) {
  auto expression = make(Expression::Kind::literal);
  expression->value = std::move(value);
  return expression;
}

// The grammar of Jinja's own parser: each method is one level of precedence.
class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Block whole() {
    Block block = until({});
    if (peek().kind != Kind::end) fail("unexpected end of a block");
    return block;
  }

 private:
  // -- tokens

  const Token& peek() const { return tokens_[at_]; }
  Token next() { return tokens_[peek().kind == Kind::end ? at_ : at_++]; }
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError("chat template, line {}: {}", peek().line, what);
  }
  bool is_symbol(std::string_view symbol) const {
    return peek().kind == Kind::symbol && peek().text == symbol;
  }
  bool is_word(std::string_view word) const {
    return peek().kind == Kind::name && peek().text == word;
  }
  bool take_symbol(std::string_view symbol) {
    if (!is_symbol(symbol)) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (!is_word(word)) return false;
    ++at_;
    return true;
  }
  void expect(Kind kind, const char* what) {
    if (peek().kind != kind) fail(fmt::format("expected {}, found '{}'", what, peek().text));
    ++at_;
  }
  void expect_symbol(std::string_view symbol) {
    if (!take_symbol(symbol)) fail(fmt::format("expected '{}', found '{}'", symbol, peek().text));
  }
  void expect_word(std::string_view word) {
    if (!take_word(word)) fail(fmt::format("expected '{}', found '{}'", word, peek().text));
  }
  std::string name() {
    if (peek().kind != Kind::name) fail(fmt::format("expected a name, found '{}'", peek().text));
    return next().text;
  }

  struct Depth {
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kDeepestParse) parser_.fail("nested too deeply");
    }
    ~Depth() { --parser_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    Parser& parser_;
  };

  // -- statements

  // Nodes until a block that begins with one of the names; that block's opening and name are eaten,
  // and which it was is kept in ended_by_.
  Block until(const Names& enders) {
    const Depth depth(*this);
    Block block;
    while (peek().kind != Kind::end) {
      const Token token = next();
      if (token.kind == Kind::text) {
        auto node = std::make_unique<Node>();
        node->text = token.text;
        block.push_back(std::move(node));
      } else if (token.kind == Kind::begin_output) {
        auto node = std::make_unique<Node>();
        node->kind = Node::Kind::output;
        node->expressions.push_back(expression());
        expect(Kind::end_output, "'}}'");
        block.push_back(std::move(node));
      } else if (token.kind == Kind::begin_block) {
        const std::string word = name();
        if (std::find(enders.begin(), enders.end(), word) != enders.end()) {
          ended_by_ = word;
          return block;
        }
        statement(word, block);
      } else {
        fail("unexpected tag");
      }
    }
    if (!enders.empty()) fail(fmt::format("no {} before the end", enders.back()));
    return block;
  }
  void end_block() { expect(Kind::end_block, "'%}'"); }

  void statement(const std::string& word, Block& block) {
    auto node = std::make_unique<Node>();
    if (word == "if") {
      branch(*node);
    } else if (word == "for") {
      loop(*node);
    } else if (word == "set") {
      assign(*node);
    } else if (word == "macro") {
      macro(*node);
    } else if (word == "break" || word == "continue") {
      node->kind = word == "break" ? Node::Kind::leave : Node::Kind::next;
      end_block();
    } else if (word ==
               "generation") {  // transformers marks replies with it; it renders as its body
      end_block();
      for (auto& inner : until({"endgeneration"})) block.push_back(std::move(inner));
      end_block();
      return;
    } else {
      fail(fmt::format("'{}' blocks are not supported", word));
    }
    block.push_back(std::move(node));
  }

  void branch(Node& node) {
    node.kind = Node::Kind::branch;
    node.expressions.push_back(expression());
    end_block();
    node.body = until({"elif", "else", "endif"});
    if (ended_by_ == "elif") {
      const Depth depth(*this);
      auto inner = std::make_unique<Node>();
      branch(*inner);
      node.otherwise.push_back(std::move(inner));
      return;  // the inner one has eaten endif
    }
    if (ended_by_ == "else") {
      end_block();
      node.otherwise = until({"endif"});
    }
    end_block();
  }

  void loop(Node& node) {
    node.kind = Node::Kind::loop;
    do {
      node.names.push_back(name());
    } while (take_symbol(","));
    expect_word("in");
    node.expressions.push_back(disjunction());
    node.expressions.push_back(take_word("if") ? expression() : nullptr);
    if (is_word("recursive")) fail("recursive loops are not supported");
    end_block();
    node.body = until({"else", "endfor"});
    if (ended_by_ == "else") {
      end_block();
      node.otherwise = until({"endfor"});
    }
    end_block();
  }

  void assign(Node& node) {
    node.kind = Node::Kind::assign;
    node.text = name();
    if (take_symbol(".")) node.attribute = name();
    if (take_symbol("=")) {
      node.expressions.push_back(expression());
      end_block();
      return;
    }
    if (!node.attribute.empty() || peek().kind != Kind::end_block)
      fail("this form of 'set' is not supported");
    end_block();
    node.kind = Node::Kind::assign_block;
    node.body = until({"endset"});
    end_block();
  }

  void macro(Node& node) {
    node.kind = Node::Kind::macro;
    node.text = name();
    expect_symbol("(");
    while (!take_symbol(")")) {
      node.names.push_back(name());
      node.expressions.push_back(take_symbol("=") ? expression() : nullptr);
      if (!is_symbol(")")) expect_symbol(",");
    }
    end_block();
    node.body = until({"endmacro"});
    end_block();
  }

  // -- expressions

  ExpressionPtr expression() {
    const Depth depth(*this);
    ExpressionPtr value = disjunction();
    while (take_word("if")) {
      auto condition = make(Expression::Kind::condition, "", std::move(value), disjunction());
      if (take_word("else")) condition->parts.push_back(expression());
      value = std::move(condition);
    }
    return value;
  }
  ExpressionPtr disjunction() {
    ExpressionPtr left = conjunction();
    while (take_word("or"))
      left = make(Expression::Kind::binary, "or", std::move(left), conjunction());
    return left;
  }
  ExpressionPtr conjunction() {
    ExpressionPtr left = negation();
    while (take_word("and"))
      left = make(Expression::Kind::binary, "and", std::move(left), negation());
    return left;
  }
  ExpressionPtr negation() {
    const Depth depth(*this);
    if (take_word("not")) return make(Expression::Kind::unary, "not", negation());
    return comparison();
  }
  // a < b < c is a < b and b < c; templates do not chain, so the first pair is enough to be
  // refused.
  ExpressionPtr comparison() {
    ExpressionPtr left = sum();
    const std::string symbol = comparison_symbol();
    if (symbol.empty()) return left;
    left = make(Expression::Kind::binary, symbol, std::move(left), sum());
    if (!comparison_symbol().empty()) fail("chained comparisons are not supported");
    return left;
  }
  std::string comparison_symbol() {
    for (const char* symbol : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (take_symbol(symbol)) return symbol;
    }
    if (take_word("in")) return "in";
    if (is_word("not") && tokens_[at_ + 1].kind == Kind::name && tokens_[at_ + 1].text == "in") {
      at_ += 2;
      return "not in";
    }
    return {};
  }
  ExpressionPtr sum() {
    ExpressionPtr left = concatenation();
    while (is_symbol("+") || is_symbol("-")) {
      const std::string symbol = next().text;
      left = make(Expression::Kind::binary, symbol, std::move(left), concatenation());
    }
    return left;
  }
  ExpressionPtr concatenation() {
    ExpressionPtr left = product();
    while (take_symbol("~")) left = make(Expression::Kind::binary, "~", std::move(left), product());
    return left;
  }
  ExpressionPtr product() {
    ExpressionPtr left = sign();
    while (is_symbol("*") || is_symbol("/") || is_symbol("//") || is_symbol("%")) {
      const std::string symbol = next().text;
      left = make(Expression::Kind::binary, symbol, std::move(left), sign());
    }
    return left;
  }
  ExpressionPtr sign() {
    const Depth depth(*this);
    ExpressionPtr value =
        take_symbol("-") ? make(Expression::Kind::unary, "-", sign()) : postfix(primary());
    while (true) {
      if (take_symbol("|")) {
        value = make(Expression::Kind::filter, name(), std::move(value));
        if (take_symbol("(")) arguments(*value);
        value = postfix(std::move(value));
      } else if (take_word("is")) {
        value = test(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExpressionPtr test(ExpressionPtr value) {
    const bool negated = take_word("not");
    auto test = make(Expression::Kind::test, name(), std::move(value));
    if (take_symbol("(")) {
      arguments(*test);
    } else if (peek().kind == Kind::string || peek().kind == Kind::integer) {
      test->parts.push_back(primary());
    }
    return negated ? make(Expression::Kind::unary, "not", std::move(test)) : std::move(test);
  }

  void arguments(Expression& call) {
    while (!take_symbol(")")) {
      const bool is_named = peek().kind == Kind::name && tokens_[at_ + 1].kind == Kind::symbol &&
                            tokens_[at_ + 1].text == "=";
      if (is_named) {
        std::string parameter = name();
        ++at_;
        call.named.emplace_back(std::move(parameter), expression());
      } else {
        call.parts.push_back(expression());
      }
      if (!is_symbol(")")) expect_symbol(",");
    }
  }

  ExpressionPtr postfix(ExpressionPtr value) {
    while (true) {
      if (take_symbol(".")) {
        value = make(Expression::Kind::attribute, name(), std::move(value));
      } else if (take_symbol("(")) {
        value = make(Expression::Kind::call, "", std::move(value));
        arguments(*value);
      } else if (take_symbol("[")) {
        value = item(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExpressionPtr item(ExpressionPtr value) {
    std::vector<ExpressionPtr> bounds(3);
    size_t bound = 0;
    bool is_slice = false;
    while (!take_symbol("]")) {
      if (take_symbol(":")) {
        is_slice = true;
        if (++bound > 2) fail("a slice with too many parts");
      } else if (bounds[bound]) {
        fail("expected ']'");
      } else {
        bounds[bound] = expression();
      }
    }
    if (!is_slice && !bounds[0]) fail("an index is missing");
    if (!is_slice) return make(Expression::Kind::item, "", std::move(value), std::move(bounds[0]));
    auto slice = make(Expression::Kind::slice, "", std::move(value));
    for (auto& part : bounds) slice->parts.push_back(std::move(part));
    return slice;
  }

  ExpressionPtr primary() {
    const Token token = next();
    switch (token.kind) {
      case Kind::string: {
        std::string text = token.text;
        while (peek().kind == Kind::string) text += next().text;
        return literal(text);
      }
      case Kind::integer:
        return literal(std::stoll(token.text));
      case Kind::number:
        return literal(std::stod(token.text));
      case Kind::name:
        return word(token.text);
      case Kind::symbol:
        return bracketed(token.text);
      default:
        fail("expected a value");
    }
  }

  static ExpressionPtr word(const std::string& text) {
    if (text == "true" || text == "True") return literal(true);
    if (text == "false" || text == "False") return literal(false);
    if (text == "none" || text == "None") return literal(nullptr);
    return make(Expression::Kind::name, text);
  }

  ExpressionPtr bracketed(const std::string& symbol) {
    if (symbol == "(") {
      ExpressionPtr inner = expression();
      if (is_symbol(",")) fail("tuples are not supported");
      expect_symbol(")");
      return inner;
    }
    if (symbol == "[") {
      auto list = make(Expression::Kind::list);
      while (!take_symbol("]")) {
        list->parts.push_back(expression());
        if (!is_symbol("]")) expect_symbol(",");
      }
      return list;
    }
    if (symbol != "{") fail(fmt::format("unexpected '{}'", symbol));
    auto dict = make(Expression::Kind::dict);
    while (!take_symbol("}")) {
      dict->parts.push_back(expression());
      expect_symbol(":");
      dict->parts.push_back(expression());
      if (!is_symbol("}")) expect_symbol(",");
    }
    return dict;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  std::string ended_by_;
};

}  // namespace

Block parse(std::string_view source) {
  return Parser(source).whole();
}

}  // namespace train_sft::jinja

// The part of Jinja2 in which chat templates are written, rendered as transformers renders it
// (trim_blocks and lstrip_blocks on): enough to find out what a foreign template puts around
// messages. Text, {{ }}, if, for, set, macro, break and continue; namespaces, the usual operators,
// filters, tests and methods. Anything else is refused with its name.
//
// Templates come from files of unknown origin: their size, depth, steps and output are limited, and
// nothing they can say reaches beyond the variables given.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/base/json.h"

namespace train_sft::jinja {

// The template called raise_exception, or looked into something undefined.
struct Raised : DataError {
  using DataError::DataError;
};

// A value is a Json value; undefined is Json's "discarded".
inline Json undefined() {
  return Json(Json::value_t::discarded);
}
inline bool is_undefined(const Json& value) {
  return value.is_discarded();
}

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;
struct Expression {
  enum class Kind {
    literal,    // value
    name,       // text
    attribute,  // parts[0].text
    item,       // parts[0][parts[1]]
    slice,      // parts[0][parts[1]:parts[2]:parts[3]], each but the first may be absent
    call,       // parts[0](parts[1], …, named…)
    filter,     // parts[0] | text(parts[1], …, named…)
    test,       // parts[0] is text(parts[1])
    unary,      // text parts[0]
    binary,     // parts[0] text parts[1]
    condition,  // parts[0] if parts[1] else parts[2] (may be absent)
    list,       // parts
    dict,       // parts: key, value, key, value, …
  };
  Kind kind = Kind::literal;
  std::string text;
  Json value;
  std::vector<ExpressionPtr> parts;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Node;
using Block = std::vector<std::unique_ptr<Node>>;
struct Node {
  enum class Kind { text, output, branch, loop, assign, assign_block, macro, leave, next };
  Kind kind = Kind::text;
  std::string text;                        // text; the name assigned or defined
  std::string attribute;                   // of a namespace assigned to
  std::vector<std::string> names;          // loop variables; a macro's parameters
  std::vector<ExpressionPtr> expressions;  // output; the condition; what is looped over (and its
                                           // filter); a value; defaults of parameters (may be null)
  Block body;
  Block otherwise;  // else
};

// Throws DataError with the line of what cannot be read.
Block parse(std::string_view source);

// Variables by name. Throws Raised, or DataError for what is not supported.
std::string render(const Block& block, const Json& variables);

}  // namespace train_sft::jinja

#include "cli/inspect_data.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cli/byte_tokenizer.h"
#include "cli/utf8_stream.h"
#include "train_sft/data/loader.h"
#include "train_sft/text/chat_template.h"

namespace train_sft::cli {
namespace {

constexpr size_t kLongestShown = 100'000;  // bytes, or ids, of an example

std::string without_control_characters(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F) {
      out += "\xE2\x90";  // U+2400 and on: pictures of control characters
      out += static_cast<char>(byte == 0x7F ? 0xA1 : 0x80 + byte);
    } else {
      out += c;
    }
  }
  return out;
}

bool prints_colours() {
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::string_view(terminal) == "dumb";
  return isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr && !dumb;
}

// What the files are counted with.
struct Counting {
  std::unique_ptr<Tokenizer> tokenizer;
  bool in_bytes = false;  // for want of a tokenizer
};

Counting counting(TrainConfig& config, bool block_size_given, bool cache_dir_given) {
  if (!config.tokenizer.empty()) return {load_tokenizer(config.tokenizer), false};
  // No run will ask for these tokens.
  if (!cache_dir_given) config.cache_dir = "none";
  // Bytes are several times as many as tokens: no limit, so that nothing is counted as cut.
  if (!block_size_given) config.block_size = 1 << 24;
  return {std::make_unique<ByteTokenizer>(), true};
}

void print_examples(const Dataset& data, const Tokenizer& tokenizer, uint64_t shown) {
  const bool colours = prints_colours();
  for (uint64_t example = 0; example < shown; ++example) {
    const auto spans = example_spans(data, tokenizer, example);
    if (colours) {
      fmt::print("\n\x1b[36m-- {} (learned: \x1b[1;32mgreen\x1b[0;36m)\x1b[0m\n{}\n", example,
                 coloured_text(spans));
    } else {
      fmt::print("\n-- {} (learned: between ⟦ and ⟧)\n{}\n", example, plain_text(spans));
    }
  }
}

Json shown_examples(const Dataset& data, const Tokenizer& tokenizer, uint64_t shown) {
  Json json = Json::array();
  for (uint64_t example = 0; example < shown; ++example) {
    json.push_back(plain_text(example_spans(data, tokenizer, example)));
  }
  return json;
}

Json shown_ids(const Dataset& data, uint64_t shown) {
  Json json = Json::array();
  for (uint64_t example = 0; example < shown; ++example) {
    Json ids = Json::array();
    Json weights = Json::array();
    const uint64_t begin = data.offsets[example];
    const uint64_t end = std::min<uint64_t>(data.offsets[example + 1], begin + kLongestShown);
    for (uint64_t i = begin; i < end; ++i) {
      ids.push_back(data.tokens[i]);
      weights.push_back(data.weights.empty() ? 1.0F : data.weights[i]);
    }
    json.push_back({{"ids", std::move(ids)}, {"weights", std::move(weights)}});
  }
  return json;
}

}  // namespace

std::vector<ExampleSpan> example_spans(const Dataset& dataset, const Tokenizer& tokenizer,
                                       uint64_t example) {
  std::vector<ExampleSpan> spans;
  size_t bytes = 0;
  for (uint64_t i = dataset.offsets[example]; i < dataset.offsets[example + 1]; ++i) {
    const bool learned = !dataset.weights.empty() && dataset.weights[i] > 0;
    if (spans.empty() || spans.back().learned != learned) spans.push_back({"", learned});
    const int32_t id = dataset.tokens[i];
    const std::string name = tokenizer.special_name(id);
    const std::string text = name.empty() ? tokenizer.token_bytes(id) : name;
    spans.back().text += text;
    if ((bytes += text.size()) > kLongestShown) break;
  }
  for (ExampleSpan& span : spans) span.text = well_formed(span.text);
  return spans;
}

std::string plain_text(const std::vector<ExampleSpan>& spans) {
  std::string text;
  for (const ExampleSpan& span : spans) text += span.learned ? "⟦" + span.text + "⟧" : span.text;
  return text;
}

std::string coloured_text(const std::vector<ExampleSpan>& spans) {
  std::string text;
  for (const ExampleSpan& span : spans) {
    text += span.learned ? "\x1b[1;32m" : "\x1b[2m";
    text += without_control_characters(span.text) + "\x1b[0m";
  }
  return text;
}

Json inspect_data(const Invocation& invocation, const std::vector<std::string>& paths) {
  TrainConfig config = invocation.settings.config;
  config.data = paths;
  if (!invocation.settings.given("val_split")) config.val_split = 0;
  const Counting by = counting(config, invocation.settings.given("block_size"),
                               invocation.settings.given("cache_dir"));
  const auto rendering = chat_template_for(config.chat_template, config.tokenizer);
  DataSplit split = load_data(config, *by.tokenizer, *rendering);
  const auto count_rows = [&](Dataset& data) {
    if (by.in_bytes || data.size() == 0) return;
    add_rows(data.report, RowTable(data, resolve_packing(config, data.is_text), config.block_size));
  };
  count_rows(split.train);
  count_rows(split.validation);

  const Dataset& data = split.train;
  const uint64_t shown = std::min(static_cast<uint64_t>(invocation.integer("show")), data.size());
  Json json{{"kind", "data"},
            {"path", paths[0]},
            {"paths", paths},
            {"tokenizer", by.tokenizer->kind()},
            {"chat_template", rendering->name()}};
  json.update(to_json(data.report));
  const bool has_validation = split.validation.size() > 0;
  if (has_validation) {
    json["validation"] = to_json(split.validation.report);
    json["overlap"] = split.overlap;
  }
  if (config.json) {
    if (shown > 0) {
      json["shown"] = shown_examples(data, *by.tokenizer, shown);
      json["shown_ids"] = shown_ids(data, shown);
    }
    return json;
  }
  fmt::print("data {}{}\n{}", fmt::join(paths, ", "),
             by.in_bytes ? " (counted in bytes; --tokenizer PATH counts its tokens)" : "",
             describe(data.report));
  if (has_validation) {
    fmt::print("validation: {}{} of its examples occur in the training data too\n",
               describe(split.validation.report), split.overlap);
  }
  print_examples(data, *by.tokenizer, shown);
  return json;
}

}  // namespace train_sft::cli

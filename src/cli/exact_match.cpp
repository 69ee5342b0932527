#include "cli/exact_match.h"

#include <span>

#include "cli/plain_text.h"
#include "cli/utf8_stream.h"
#include "train_sft/base/file.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"

namespace train_sft::cli {
namespace {

struct Exchange {
  std::vector<int32_t> prompt;
  std::vector<int32_t> reply;  // without its end token; empty: nothing to compare with
};

// The last learned stretch of an example, if it is a whole reply, and what stands before it.
Exchange last_reply(const Dataset& dataset, uint64_t example, int32_t end_of_reply) {
  const uint64_t begin = dataset.offsets[example], end = dataset.offsets[example + 1];
  uint64_t last = end;
  while (last > begin && !(dataset.weights[last - 1] > 0)) --last;
  uint64_t first = last;
  while (first > begin && dataset.weights[first - 1] > 0) --first;
  Exchange exchange;
  if (last == first || first == begin || dataset.tokens[last - 1] != end_of_reply) return exchange;
  exchange.prompt = dataset.tokens.slice(begin, first);
  exchange.reply = dataset.tokens.slice(first, last - 1);
  return exchange;
}

void count(ExactMatch::Count& counter, bool right) {
  ++counter.asked;
  counter.right += right ? 1 : 0;
}

}  // namespace

ExactMatch exact_match(const LoadedModel& model, const Dataset& dataset,
                       const std::vector<std::string>& groups, const ExactMatchOptions& options) {
  ExactMatch result;
  if (dataset.is_text || dataset.weights.empty()) {
    throw UsageError("exact_match: this data is text, not questions with answers");
  }
  const int32_t end_of_reply = model.chat_template->end_of_reply(*model.tokenizer);
  const std::vector<int32_t> stops{end_of_reply};
  Decoder decoder(*model.parameters);
  ProgressBar bar("answering", std::min(options.most, dataset.size()));
  for (uint64_t example = 0; example < dataset.size() && result.all.asked < options.most;
       ++example) {
    signals::throw_if_stopped();
    const Exchange exchange = last_reply(dataset, example, end_of_reply);
    if (exchange.reply.empty()) {
      ++result.skipped;
      continue;
    }
    SamplingOptions greedy;
    greedy.temperature = 0;
    greedy.max_new_tokens = static_cast<int64_t>(exchange.reply.size()) + options.max_new_tokens;
    decoder.clear();
    const std::vector<int32_t> ids = generate(decoder, exchange.prompt, stops, greedy);
    const std::string expected = trimmed(model.tokenizer->decode(exchange.reply));
    const std::string got = trimmed(model.tokenizer->decode(ids));
    count(result.all, got == expected);
    if (const uint64_t record = dataset.ids[example]; record < groups.size()) {
      count(result.by_group[groups[record]], got == expected);
    }
    if (result.shown.size() < options.show) {
      result.shown.push_back({well_formed(model.tokenizer->decode(exchange.prompt)),
                              well_formed(expected), well_formed(got)});
    }
    bar.update(result.all.asked);
  }
  return result;
}

std::vector<std::string> field_of_records(const std::vector<std::string>& paths,
                                          const std::string& field) {
  std::vector<std::string> values;
  const auto add = [&](const Json& record) {
    const auto found = record.is_object() ? record.find(field) : record.end();
    const bool there = record.is_object() && found != record.end();
    values.push_back(!there ? "" : found->is_string() ? found->get<std::string>() : found->dump());
  };
  for (const std::string& path : paths) {
    const std::string text = read_file(path);
    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first != text.npos && text[first] == '[') {
      for (const Json& record : parse_json(text, path)) add(record);
      continue;
    }
    size_t line_number = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t newline = std::min(text.find('\n', at), text.size());
      const std::string line = text.substr(at, newline - at);
      at = newline + 1;
      ++line_number;
      if (!trimmed(line).empty()) add(parse_json(line, fmt::format("{}:{}", path, line_number)));
    }
  }
  return values;
}

}  // namespace train_sft::cli

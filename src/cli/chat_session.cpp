#include "cli/chat_session.h"

#include <algorithm>

#include "cli/utf8_stream.h"
#include "train_sft/base/rng.h"

namespace train_sft::cli {
namespace {

Message message_of(Role role, const std::string& content) {
  Message message;
  message.role = role;
  message.content = content;
  return message;
}

}  // namespace

ChatSession::ChatSession(const LoadedModel& model, SamplingOptions options,
                         const std::string& system)
    : model_(model), options_(options), decoder_(*model.parameters) {
  if (system.empty()) return;
  messages_.push_back(message_of(Role::system, system));
  first_turn_ = 1;
}

void ChatSession::clear() {
  messages_.resize(first_turn_);
  read_.clear();
  decoder_.clear();
}

std::vector<int32_t> ChatSession::fitting_prompt(Reply& reply) {
  // Room for an answer worth reading, but never more than half of the context.
  const int64_t reserve = std::min(options_.max_new_tokens, decoder_.capacity() / 2);
  while (true) {
    std::vector<int32_t> ids = model_.chat_template->prompt(*model_.tokenizer, messages_);
    const auto length = static_cast<int64_t>(ids.size());
    const bool only_this_turn = messages_.size() == first_turn_ + 1;
    if (length + reserve <= decoder_.capacity() ||
        (only_this_turn && length < decoder_.capacity())) {
      return ids;
    }
    if (only_this_turn) {
      messages_.pop_back();
      throw UsageError(
          "the message is {} tokens long with its template, the model's context {}; "
          "shorten it",
          length, decoder_.capacity());
    }
    // The oldest question goes with its answer.
    const auto oldest = messages_.begin() + static_cast<std::ptrdiff_t>(first_turn_);
    messages_.erase(oldest, oldest + 2);
    reply.forgotten += 2;
  }
}

std::vector<int32_t> ChatSession::not_yet_read(const std::vector<int32_t>& ids) {
  const size_t limit =
      std::min({ids.size() - 1, read_.size(), static_cast<size_t>(decoder_.length())});
  size_t common = 0;
  while (common < limit && ids[common] == read_[common]) ++common;
  decoder_.truncate(static_cast<int64_t>(common));
  return {ids.begin() + static_cast<std::ptrdiff_t>(common), ids.end()};
}

ChatSession::Reply ChatSession::say(const std::string& message,
                                    const std::function<void(const std::string&)>& on_text) {
  Reply reply;
  messages_.push_back(message_of(Role::user, message));
  const std::vector<int32_t> ids = fitting_prompt(reply);
  reply.prompt_tokens = ids.size();

  std::vector<int32_t> stops{model_.chat_template->end_of_reply(*model_.tokenizer)};
  if (const int32_t eos = model_.tokenizer->eos_id(); eos >= 0) stops.push_back(eos);
  SamplingOptions options = options_;
  options.seed = mix64(options_.seed + turn_++);
  Utf8Stream stream;
  std::string bytes;
  const auto on_token = [&](int32_t id) {
    reply.rate.token();
    const std::string token = model_.tokenizer->token_bytes(id);
    bytes += token;
    on_text(stream.push(token));
  };
  const std::vector<int32_t> generated =
      generate(decoder_, not_yet_read(ids), stops, options, on_token);
  on_text(stream.finish());

  read_ = ids;
  read_.insert(read_.end(), generated.begin(), generated.end());
  reply.new_tokens = generated.size();
  reply.text = well_formed(bytes);
  messages_.push_back(message_of(Role::assistant, reply.text));
  return reply;
}

}  // namespace train_sft::cli

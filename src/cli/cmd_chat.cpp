#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>

#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/plain_text.h"
#include "train_sft/base/log.h"
#include "train_sft/base/signals.h"

namespace train_sft::cli {
namespace {

// Lines of standard input, through read(): a signal must be able to end the waiting.
class LineReader {
 public:
  // Nothing at the end of input or when a stop was asked for.
  std::optional<std::string> next() {
    while (true) {
      if (const size_t newline = buffer_.find('\n'); newline != buffer_.npos) {
        std::string line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return line;
      }
      char bytes[4096];
      const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (count > 0) {
        buffer_.append(bytes, static_cast<size_t>(count));
      } else if (count < 0 && errno == EINTR && !signals::stop_requested()) {
        continue;
      } else if (buffer_.empty() || signals::stop_requested()) {
        return {};
      } else {
        return std::exchange(buffer_, "");  // a last line without its newline
      }
    }
  }

 private:
  std::string buffer_;
};

void note_forgotten(const ChatSession::Reply& reply) {
  if (reply.forgotten == 0) return;
  log::info(
      "(the conversation is longer than the model's context: its oldest {} messages are left "
      "out)",
      reply.forgotten);
}

Outcome one_shot(const Invocation& invocation, const LoadedModel& model, ChatSession& session) {
  const bool json = invocation.settings.config.json;
  const auto reply = session.say(invocation.text("prompt"), [&](const std::string& text) {
    if (!json) show(text);
  });
  if (!json) show("\n");
  return {signals::stop_code(),
          {{"prompt", invocation.text("prompt")},
           {"reply", reply.text},
           {"prompt_tokens", reply.prompt_tokens},
           {"new_tokens", reply.new_tokens},
           {"tokens_per_s", reply.rate.per_second()},
           {"checkpoint", model.directory}}};
}

// Ctrl-C ends a reply, and at the prompt the program; SIGTERM always the program.
Outcome converse(ChatSession& session) {
  const bool at_terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  if (at_terminal) {
    log::info(
        "Type a message; /clear starts over, /exit (or Ctrl-D) leaves, Ctrl-C stops a reply.");
  }
  LineReader lines;
  while (true) {
    if (at_terminal) show("\n> ");
    const std::optional<std::string> line = lines.next();
    if (!line) {
      if (at_terminal) show("\n");
      return {signals::stop_code(), {}};
    }
    const std::string message = trimmed(*line);
    if (message == "/exit" || message == "/quit") return {};
    if (message.empty()) continue;
    if (message == "/clear") {
      session.clear();
      log::info("(a new conversation)");
      continue;
    }
    try {
      const auto reply = session.say(message, show);
      show(signals::stop_requested() ? " …\n" : "\n");
      note_forgotten(reply);
    } catch (const UsageError& error) {
      if (!at_terminal) throw;
      log::error("{}", error.what());
    }
    if (signals::stop_code() == ExitCode::terminated || std::ferror(stdout) != 0) {
      return {signals::stop_code(), {}};
    }
    if (signals::stop_requested() && !at_terminal) return {signals::stop_code(), {}};
    signals::clear_stop();
  }
}

Outcome run_chat(const Invocation& invocation) {
  const bool one_prompt = invocation.has("prompt");
  if (invocation.settings.config.json && !one_prompt) {
    throw UsageError("json: a conversation is not one object; add --prompt TEXT");
  }
  const LoadedModel model = load_model(invocation);
  const std::string system = invocation.has("system") ? invocation.text("system") : "";
  ChatSession session(model, sampling(invocation), system);
  return one_prompt ? one_shot(invocation, model, session) : converse(session);
}

}  // namespace

Command chat_command() {
  Command command;
  command.name = "chat";
  command.summary = "Talks with a model: at the terminal, line by line from a pipe, or once.";
  command.examples = {
      "train_sft chat --checkpoint checkpoints_instruct/best_model",
      "train_sft chat --checkpoint checkpoints_instruct/best_model --prompt \"Name three rivers.\" "
      "--temperature 0",
      "train_sft chat --checkpoint checkpoints_instruct/best_model --system \"Answer briefly.\"",
  };
  command.own_options = {checkpoint_option(),
                         own_option("prompt", "string", nullptr, "One message; prints the reply"),
                         own_option("system", "string", nullptr, "The system message")};
  for (Option& option : sampling_options()) command.own_options.push_back(std::move(option));
  command.shared = {"chat_template", "precision", "threads"};
  command.run = run_chat;
  return command;
}

}  // namespace train_sft::cli

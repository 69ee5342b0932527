#include "tokenise.h"

#include <utility>

#include "parallel.h"
#include "train_sft/base/error.h"
#include "train_sft/base/signals.h"

namespace train_sft {
namespace {

// A long text is encoded in parts where the tokenizer allows it, so that a stop is heeded soon.
constexpr size_t kEncodedAtOnce = size_t{256} << 10;

}  // namespace

TrainOn parse_train_on(const std::string& name) {
  if (name == "assistant") return TrainOn::assistant;
  if (name == "last") return TrainOn::last;
  if (name == "all") return TrainOn::all;
  throw UsageError("train_on '{}' is unknown; choose assistant, last or all", name);
}

Renderer::Renderer(const TrainConfig& settings, const Tokenizer& ids, const ChatTemplate& chat)
    : config(settings),
      tokenizer(ids),
      chat_template(chat),
      train_on(parse_train_on(settings.train_on)),
      reading(settings),
      token_bytes(bytes_of_ids(ids.vocab_size())) {}

void Renderer::render_text(const Chunk& chunk, PartWriter& part) const {
  std::string_view text = chunk.text;
  while (!text.empty()) {
    signals::throw_if_stopped();
    size_t end = 0;
    for (size_t limit = kEncodedAtOnce; end == 0 && limit < text.size(); limit *= 2) {
      end = tokenizer.safe_cut(text, limit);
    }
    if (end == 0) end = text.size();
    part.add_tokens(tokenizer.encode(text.substr(0, end)));
    text.remove_prefix(end);
  }
  const int32_t eos = tokenizer.eos_id();
  if (!chunk.goes_on && chunk.ends && eos >= 0) part.add_tokens({eos});
  Piece piece;
  piece.content_hash = chunk.document_hash;
  piece.line = chunk.first_line;
  piece.flags = (chunk.goes_on ? Piece::kGoesOn : 0) | (chunk.held_out ? Piece::kHeldOut : 0);
  part.end_piece(piece);
}

void Renderer::render_record(const DataRecord& record, PartWriter& part) const {
  signals::throw_if_stopped();
  if (record.is_document) {
    std::vector<int32_t> ids = tokenizer.encode(record.document);
    if (tokenizer.eos_id() >= 0) ids.push_back(tokenizer.eos_id());
    part.add_tokens(ids);
  } else {
    const RenderedConversation rendered =
        chat_template.render(tokenizer, record.conversation, train_on);
    part.add_tokens(rendered.ids);
    part.add_weights(rendered.weights);
  }
  Piece piece;
  piece.content_hash = record.content_hash;
  piece.line = record.line;
  part.end_piece(piece);
}

std::vector<std::byte> Renderer::render(const Chunk& chunk, const DataSource& source) const {
  PartWriter part(token_bytes);
  Placeholders unknown;
  const auto render_at = [&](const DataRecord& record) {
    try {
      render_record(record, part);
    } catch (const DataError& error) {  // what the chat template refuses
      throw DataError("{}:{}: {}", source.file.path, record.line, error.what());
    }
  };
  if (chunk.records) {
    for (size_t i = chunk.begin; i < chunk.end; ++i) {
      render_at(chunk.records->records[i]);
    }
    if (chunk.begin == 0) unknown = chunk.records->unknown_vars;
  } else if (source.kind == SourceKind::plain) {
    render_text(chunk, part);
  } else {
    for (const JsonRecord& text : json_lines(chunk.text, chunk.first_line)) {
      render_at(make_record(text, source.source, reading, unknown));
    }
  }
  part.add_unknown_vars(unknown);
  return part.finish(chunk.input_hash);
}

void tokenise(std::vector<DataSource>& sources, const Renderer& renderer, PartStore& parts) {
  ChunkReader reader(sources, renderer.config, &renderer.tokenizer);
  const auto next = [&]() -> Job {
    std::optional<Chunk> chunk = reader.next();
    if (!chunk) return {};
    // Jobs are copied into std::function: the text is shared, not copied.
    auto held = std::make_shared<const Chunk>(std::move(*chunk));
    return [&, held] {
      if (!parts.has(held->number, held->input_hash)) {
        parts.put(held->number, renderer.render(*held, sources[held->source]));
      }
      return static_cast<size_t>(held->bytes);
    };
  };
  parallel_jobs(resolve_threads(renderer.config.threads), "tokenising", reader.total_bytes(), next);
}

}  // namespace train_sft

#include "build.h"

#include <algorithm>
#include <set>

#include "train_sft/base/error.h"
#include "train_sft/base/progress.h"
#include "train_sft/base/signals.h"
#include "train_sft/data/loader.h"

namespace train_sft {
namespace {

std::string split_by(const std::vector<DataSource>& sources, const TrainConfig& config) {
  const std::string& by = config.val_split_by;
  if (by == "hash" || by == "tail") return by;
  if (by != "auto") {
    throw UsageError("val_split_by '{}' is unknown; choose auto, hash or tail", by);
  }
  const bool plain = std::all_of(sources.begin(), sources.end(),
                                 [](const auto& s) { return s.kind == SourceKind::plain; });
  return plain ? "tail" : "hash";
}

bool splits(const TrainConfig& config) {
  return config.val_data.empty() && config.val_split > 0.0;
}

BuilderSettings settings_of(const std::vector<DataSource>& sources, bool validation,
                            const TrainConfig& config, int token_bytes) {
  // What is split off is of the kind of what it is split from.
  std::vector<DataSource> side;
  const bool own = validation && !config.val_data.empty();
  for (const DataSource& source : sources) {
    if (source.validates == own) side.push_back(source);
  }
  return {is_stream(side, config), config.block_size, parse_overlong(config.overlong), token_bytes};
}

std::string prefix(const std::string& directory, const std::string& side) {
  return directory.empty() ? "" : join_path(directory, side + ".");
}

void append(RenderedRecord& record, RenderedRecord piece) {
  if (record.ids.empty()) {
    record = std::move(piece);
    return;
  }
  record.ids.insert(record.ids.end(), piece.ids.begin(), piece.ids.end());
  record.weights.insert(record.weights.end(), piece.weights.begin(), piece.weights.end());
}

}  // namespace

bool is_stream(const std::vector<DataSource>& sources, const TrainConfig& config) {
  const bool text = std::all_of(sources.begin(), sources.end(), [](const DataSource& s) {
    return !is_conversation_format(s.source.format);
  });
  return text && resolve_packing(config, text) == Packing::sequential;
}

void plan_split(std::vector<DataSource>& sources, const TrainConfig& config) {
  if (!splits(config) || split_by(sources, config) != "tail") return;
  for (DataSource& source : sources) {
    if (source.kind == SourceKind::plain) source.held_out = config.val_split;
  }
}

Assembly::Assembly(const std::vector<DataSource>& sources, const TrainConfig& config,
                   const PartStore& parts, int token_bytes, const std::string& directory)
    : sources_(sources),
      config_(config),
      parts_(parts),
      train_(settings_of(sources, false, config, token_bytes), prefix(directory, "train")),
      validation_(settings_of(sources, true, config, token_bytes),
                  prefix(directory, "validation")) {}

template <typename Visit>
void Assembly::each_record_of(const DataSource& source, uint64_t first_number, Visit visit) const {
  uint64_t number = first_number;
  for (uint64_t part = source.first_part; part < source.first_part + source.parts; ++part) {
    signals::throw_if_stopped();
    const Part held = parts_.get(part);
    for (const Piece& piece : held.pieces()) {
      if (piece.goes_on()) continue;
      visit(RecordPlace{&source, number, piece.content_hash, piece.held_out()});
      // A plain text is one record, also when it is split into two documents.
      if (source.kind != SourceKind::plain) ++number;
    }
  }
}

template <typename Visit>
void Assembly::each_record(Visit visit) const {
  uint64_t number = 0;
  for (const DataSource& source : sources_) {
    uint64_t last = number;
    each_record_of(source, number, [&](const RecordPlace& record) {
      visit(record);
      last = record.number + 1;
    });
    number = last;
  }
}

bool Assembly::validates(const RecordPlace& record) const {
  if (record.source->validates) return true;
  if (!splits(config_)) return false;
  if (record.source->held_out > 0) return record.held_out;
  if (by_tail_) return record.number >= records_ - validation_count(records_, config_.val_split);
  return choice_.contains(record.content_hash);
}

void Assembly::choose_validation() {
  if (!splits(config_)) return;
  by_tail_ = split_by(sources_, config_) == "tail";
  each_record([&](const RecordPlace& record) { records_ = record.number + 1; });
  if (by_tail_) return;
  choice_ = ValidationChoice(records_, config_.val_split, [&](const HashVisitor& visit) {
    each_record([&](const RecordPlace& record) { visit(record.content_hash); });
  });
}

// Adds one copy of a source's records: of the training ones those that are wanted, of the
// validation ones, at copy 0, all. Returns how many training records were left out.
uint64_t Assembly::add_copy(const DataSource& source, uint64_t first_number, uint64_t copy,
                            const Wanted& wanted) {
  const bool plain = source.kind == SourceKind::plain;
  uint64_t left_out = 0, number = first_number, training = 0;
  RenderedRecord record;  // grows while its document goes on
  for (uint64_t i = source.first_part; i < source.first_part + source.parts; ++i) {
    signals::throw_if_stopped();
    const Part part = parts_.get(i);
    Part::RunCursor cursor;
    uint64_t at = 0;
    for (const Piece& piece : part.pieces()) {
      // A plain text's hash is told by its last piece; all of its pieces go where that goes.
      const bool whole_text = plain && source.held_out == 0;
      const uint64_t hash = whole_text ? source.document_hash : piece.content_hash;
      const bool validation = validates({&source, number, hash, piece.held_out()});
      const bool takes = validation ? copy == 0 : wanted(hash, training);
      DatasetBuilder& builder = validation ? validation_ : train_;
      if (builder.is_stream()) {
        if (takes) part.add_to_document(builder, at, piece.tokens);
        if (takes && !piece.goes_on()) builder.end_document(hash);
      } else {
        append(record, part.record(at, piece.tokens, cursor));
        if (takes && !piece.goes_on()) {
          builder.add(record, number + copy * kCopyStride, hash,
                      fmt::format("{}:{}", source.source.path, piece.line));
        }
      }
      at += piece.tokens;
      if (piece.goes_on()) continue;
      record = {};
      if (!validation) {
        left_out += takes ? 0 : 1;
        ++training;
      }
      if (!plain) ++number;
    }
  }
  return left_out;
}

// ⌊w⌋ copies and a fraction of one. Returns the number behind the source's last record.
uint64_t Assembly::add_source(const DataSource& source, uint64_t first_number) {
  const double weight = source.source.weight;
  const auto whole = static_cast<uint64_t>(weight);
  uint64_t training = 0, end = first_number;
  each_record_of(source, first_number, [&](const RecordPlace& record) {
    end = record.number + 1;
    training += validates(record) ? 0 : 1;
  });
  const FractionChoice extra(training, weight - static_cast<double>(whole),
                             [&](const HashVisitor& visit) {
                               each_record_of(source, first_number, [&](const RecordPlace& record) {
                                 if (!validates(record)) visit(record.content_hash);
                               });
                             });
  for (uint64_t copy = 0; copy < whole; ++copy) {
    add_copy(source, first_number, copy, [](uint64_t, uint64_t) { return true; });
  }
  if (whole == 0 || weight > static_cast<double>(whole)) {
    const uint64_t left_out =
        add_copy(source, first_number, whole,
                 [&](uint64_t hash, uint64_t index) { return extra.contains(hash, index); });
    if (whole == 0) {
      train_.drop(fmt::format("left out by the data weight {:g}", weight), left_out);
    }
  }
  return end;
}

void Assembly::count_records() {
  std::set<std::string> train_formats, validation_formats;
  uint64_t train = 0, validation = 0;
  for (const DataSource& source : sources_) {
    if (!source.validates) train_formats.insert(source.source.format);
  }
  each_record([&](const RecordPlace& record) {
    if (validates(record)) {
      ++validation;
      validation_formats.insert(record.source->source.format);
    } else {
      ++train;
    }
  });
  const auto count = [&](DatasetBuilder& builder, bool of_validation, uint64_t records,
                         const std::set<std::string>& formats) {
    DataReport& report = builder.report();
    report.format = formats.size() > 1 ? "mixed" : formats.empty() ? "" : *formats.begin();
    report.examples = records;
    report.duplicates = count_duplicates(records, [&](const HashVisitor& visit) {
      each_record([&](const RecordPlace& record) {
        if (validates(record) == of_validation) visit(record.content_hash);
      });
    });
  };
  count(train_, false, train, train_formats);
  count(validation_, true, validation, validation_formats);
}

Built Assembly::run() {
  choose_validation();
  count_records();
  Placeholders unknown;
  uint64_t number = 0, parts = 0;
  for (const DataSource& source : sources_) parts += source.parts;
  ProgressBar bar("putting together", parts);
  for (const DataSource& source : sources_) {
    number = add_source(source, number);
    for (uint64_t i = source.first_part; i < source.first_part + source.parts; ++i) {
      for (const auto& [name, count] : parts_.get(i).unknown_vars()) unknown[name] += count;
    }
    bar.update(source.first_part + source.parts);
  }
  Built built;
  built.train = train_.finish();
  built.validation = validation_.finish();
  built.unknown_vars = std::move(unknown);
  return built;
}

}  // namespace train_sft

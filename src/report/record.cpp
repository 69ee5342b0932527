#include "train_sft/report/record.h"

#include <limits>
#include <span>

#include "train_sft/base/file.h"
#include "train_sft/base/json_text.h"

namespace train_sft {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr size_t kLongestLine = size_t{16} << 20;

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

double number(const Json& line, const char* key, double otherwise) {
  const auto found = line.find(key);
  if (found == line.end()) return otherwise;
  return found->is_number() ? found->get<double>() : kNotANumber;
}

// Counts; a number that no count can be gives 0.
template <typename Integer>
Integer count(const Json& line, const char* key) {
  const double value = number(line, key, 0);
  return value >= 0 && value < 9e18 ? static_cast<Integer>(value) : 0;
}

}  // namespace

Record record_from_json(const Json& line) {
  Record record;
  record.step = count<int64_t>(line, "step");
  record.epoch = number(line, "epoch", 0);
  record.tokens = count<int64_t>(line, "tokens");
  record.loss = number(line, "loss", kNotANumber);
  record.lr = number(line, "lr", 0);
  record.grad_norm = number(line, "grad_norm", kNotANumber);
  record.tokens_per_s = number(line, "tokens_per_s", 0);
  record.step_ms = number(line, "step_ms", 0);
  record.data_wait_ms = number(line, "data_wait_ms", 0);
  record.memory_bytes = count<uint64_t>(line, "memory_bytes");
  record.memory_limit_bytes = count<uint64_t>(line, "memory_limit_bytes");
  record.skipped = line.contains("skipped") && line["skipped"] == true;
  record.spikes = count<int64_t>(line, "spikes");
  if (line.contains("val_loss")) record.val_loss = number(line, "val_loss", kNotANumber);
  const auto named = line.find("eval_losses");
  if (named != line.end() && named->is_object())
    for (const auto& [name, value] : named->items())
      record.eval_losses[name] = value.is_number() ? value.get<double>() : kNotANumber;
  return record;
}

std::vector<Record> read_records(const std::string& path) {
  std::vector<Record> records;
  if (!path_exists(path)) return records;
  // Piece by piece: the file grows for as long as the run does, which reads it, too.
  FileReader file(path);
  std::string text;
  for (bool more = true; more;) {
    const size_t kept = text.size();
    text.resize(kept + kPieceBytes);
    const size_t read = file.read(std::as_writable_bytes(std::span(text).subspan(kept)));
    text.resize(kept + read);
    more = read == kPieceBytes && text.size() < kLongestLine;
    text.erase(0, read_json_lines(text, [&](Json&& line) {
                 if (!line.contains("step") || !line["step"].is_number()) return false;
                 records.push_back(record_from_json(line));
                 return true;
               }));
    more = more && text.find('\n') == text.npos;  // a line that is none of ours ends them
  }
  return records;
}

}  // namespace train_sft

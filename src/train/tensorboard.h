// TensorBoard event files, written by hand: TFRecord framing
// (tensorflow/core/lib/io/record_writer.h) around tensorflow.Event messages
// (tensorflow/core/util/event.proto, framework/summary.proto). libprotobuf is not used: its symbols
// clash with the copy inside libtorch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/append_file.h"

namespace train_sft {

// CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it.
uint32_t crc32c(std::string_view bytes);

// Counts of values in buckets: counts[i] of them are at most limits[i] and above limits[i - 1].
struct Histogram {
  double min = 0, max = 0, sum = 0, sum_squares = 0;
  uint64_t count = 0;
  std::vector<double> limits;
  std::vector<uint64_t> counts;
};

class EventFile {
 public:
  // Appends to the file; a new one begins with its version record.
  explicit EventFile(const std::string& path);
  void scalar(const std::string& tag, int64_t step, double value);
  void text(const std::string& tag, int64_t step, const std::string& value);
  void histogram(const std::string& tag, int64_t step, const Histogram& histogram);
  void sync() { file_.sync(); }

 private:
  void write_event(int64_t step, std::string_view value_message);
  void write_record(const std::string& record);

  bool is_new_;
  AppendFile file_;
};

// Cuts the file behind its last whole record whose step is at most `step`.
void cut_event_file(const std::string& path, int64_t step);

}  // namespace train_sft

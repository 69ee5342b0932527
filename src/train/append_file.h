// The files a run appends to beside its checkpoints: metrics, samples, event files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "train_sft/base/file.h"

namespace train_sft {

// Appends records. One that cannot be written (a full disk) does not end the run: it waits in
// memory and goes out, whole, with the next one that can be written.
class AppendFile {
 public:
  explicit AppendFile(const std::string& path);  // throws ResourceError
  void write(std::string_view record);           // handed to the kernel, or kept
  void sync();  // durable, and its name with it; throws ResourceError while records wait
  uint64_t waiting_bytes() const { return waiting_.size(); }

 private:
  void write_waiting();

  std::string path_;
  std::unique_ptr<FileWriter> file_;
  uint64_t good_bytes_ = 0;  // of whole records
  bool may_be_torn_ = false;
  bool is_name_durable_ = false;
  std::string waiting_;
};

}  // namespace train_sft

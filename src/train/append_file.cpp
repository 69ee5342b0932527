#include "train/append_file.h"

#include "train_sft/base/error.h"
#include "train_sft/base/log.h"
#include "train_sft/base/sync_directory.h"

namespace train_sft {

AppendFile::AppendFile(const std::string& path)
    : path_(path), file_(std::make_unique<FileWriter>(path, FileWriter::Mode::append)) {
  good_bytes_ = file_size(path);
}

void AppendFile::write_waiting() {
  if (may_be_torn_) truncate_file(path_, good_bytes_);
  may_be_torn_ = true;
  file_->write(waiting_);
  file_->flush();
  may_be_torn_ = false;
  good_bytes_ += waiting_.size();
  waiting_.clear();
}

void AppendFile::write(std::string_view record) {
  const bool was_waiting = !waiting_.empty();
  waiting_ += record;
  try {
    write_waiting();
    if (was_waiting) log::info("{}: can be written again; nothing is missing", path_);
  } catch (const ResourceError& error) {
    if (!was_waiting)
      log::warning("{}; training goes on, and what belongs there is kept in memory", error.what());
  }
}

void AppendFile::sync() {
  if (!waiting_.empty()) write_waiting();
  file_->sync();
  if (!is_name_durable_) sync_directory(parent_path(path_));
  is_name_durable_ = true;
}

}  // namespace train_sft

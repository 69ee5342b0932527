// A temporary directory of data files, and settings to load them.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/data/dataset.h"
#include "train_sft/data/loader.h"
#include "unit/text/sample_tokenizers.h"

namespace train_sft {

class DataFixture : public testing::Test {
 protected:
  DataFixture() {
    config.val_split = 0.0;
    config.block_size = 64;
    config.cache_dir = "none";
  }
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = directory / name;
    write_file_atomically(path, text);
    return path;
  }
  DataSplit load() { return load_data(config, tokenizer, *chat_template(config.chat_template)); }
  // The message of the error that loading a file of this content ends in.
  std::string error_of(const std::string& name, const std::string& text) {
    config.data = {write(name, text)};
    try {
      load();
    } catch (const Error& error) {
      return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    return "no error";
  }

  TemporaryDirectory directory;
  TrainConfig config;
  const Tokenizer& tokenizer = sample_tokenizer("bpe");
};

// n alpaca records of varied length.
inline std::string alpaca_records(int n, int first = 0) {
  std::string out = "[";
  for (int i = first; i < first + n; ++i) {
    std::string words;
    for (int w = 0; w < (i * 7) % 5; ++w) words += " garden";
    out += fmt::format(
        "{}\n {{\"instruction\": \"the cat {}\", \"input\": \"\", \"output\": \"walks{}\"}}",
        i == first ? "" : ",", i, words);
  }
  return out + "\n]\n";
}

}  // namespace train_sft

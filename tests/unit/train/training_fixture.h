// Tiny runs in a folder of their own, from settings as a command line gives them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/rng.h"
#include "train_sft/train/trainer.h"

namespace train_sft {

class TrainingTest : public ::testing::Test {
 protected:
  TrainingTest() : home_(std::filesystem::current_path()) {
    std::filesystem::current_path(directory_.path());
    log::set_level(log::Level::error);
  }
  ~TrainingTest() override {
    log::set_level(log::Level::info);
    std::filesystem::current_path(home_);
  }

  static void set(Settings& settings, const std::string& name, const Json& value,
                  const std::string& from = "command line") {
    settings.set(name, value, from);
  }

  // Words in a random order: enough structure that a loss falls.
  static void write_text(const std::string& path, size_t words, uint64_t seed = 1) {
    const char* const vocabulary[] = {"the", "cat", "sat", "on", "a", "mat", "and", "slept"};
    const CounterRng rng(seed, 0);
    std::ofstream text(path);
    for (size_t i = 0; i < words; ++i)
      text << vocabulary[rng.bits(i) % 8] << (i % 11 == 10 ? ".\n" : " ");
  }

  // Conversations whose replies are long and short: micro-batches learn very different counts.
  static void write_conversations(const std::string& path, size_t count) {
    std::ofstream lines(path);
    for (size_t i = 0; i < count; ++i) {
      const std::string reply(1 + (i * i) % 13, static_cast<char>('a' + i % 26));
      lines << Json({{"prompt", "say " + std::to_string(i)}, {"completion", reply}}).dump() << "\n";
    }
  }

  // A model of one layer on data.txt, 4 rows of 16 tokens a step.
  Settings tiny() {
    if (!path_exists("data.txt")) write_text("data.txt", 500);
    Settings settings;
    const std::vector<std::pair<const char*, Json>> values = {
        {"data", {"data.txt"}}, {"tokenizer_type", "char"},
        {"n_layer", 1},         {"n_head", 2},
        {"n_embd", 16},         {"block_size", 16},
        {"batch_size", 4},      {"max_iters", 12},
        {"warmup_iters", 2},    {"learning_rate", 1e-2},
        {"eval_interval", 4},   {"val_split", 0.1},
        {"log_interval", 1},    {"threads", 1},
        {"out_dir", "out"}};
    for (const auto& [name, value] : values) set(settings, name, value);
    return settings;
  }

  static std::vector<Json> metrics(const std::string& out_dir) {
    std::vector<Json> lines;
    std::istringstream text(read_file(join_path(out_dir, "metrics.jsonl")));
    for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  static std::vector<double> column(const std::string& out_dir, const char* key) {
    std::vector<double> values;
    for (const Json& line : metrics(out_dir))
      if (line.contains(key)) values.push_back(line[key].get<double>());
    return values;
  }

  static void expect_same_files(const std::string& a, const std::string& b,
                                const std::vector<std::string>& names) {
    for (const auto& name : names)
      EXPECT_TRUE(read_file(join_path(a, name)) == read_file(join_path(b, name)))
          << name << " differs between " << a << " and " << b;
  }

  template <typename Error>
  static std::string message_of(const Settings& settings) {
    try {
      train(settings);
    } catch (const Error& error) {
      return error.what();
    }
    return "no such error was thrown";
  }

  TemporaryDirectory directory_;

 private:
  std::filesystem::path home_;
};

}  // namespace train_sft

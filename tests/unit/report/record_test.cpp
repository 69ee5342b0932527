// metrics.jsonl as report, watch and the signs read it.
#include "train_sft/report/record.h"

#include <gtest/gtest.h>

#include "support/temporary_directory.h"
#include "train_sft/base/file.h"

namespace train_sft {
namespace {

TEST(RecordTest, AllLinesUpToTheFirstThatIsTornOrForeign) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/metrics.jsonl";
  EXPECT_TRUE(read_records(path).empty());
  // Several of the pieces that the file is read in, with lines across their borders.
  std::string whole;
  for (int step = 1; step <= 5000; ++step)
    whole += fmt::format("{{\"step\": {}, \"loss\": {}.5, \"note\": \"{}\"}}\n", step, step,
                         std::string(static_cast<size_t>(step % 400), 'x'));
  ASSERT_GT(whole.size(), size_t{1} << 20);
  for (const std::string rest : {"", "{\"step\": 5001, \"lo", "[1]\n{\"step\": 5001}\n",
                                 "{\"loss\": 1}\n{\"step\": 5001}\n"}) {
    write_file_atomically(path, whole + rest);
    const std::vector<Record> records = read_records(path);
    ASSERT_EQ(records.size(), 5000u) << rest;
    for (size_t i = 0; i < records.size(); ++i) {
      ASSERT_EQ(records[i].step, static_cast<int64_t>(i + 1));
      ASSERT_EQ(records[i].loss, static_cast<double>(i + 1) + 0.5);
    }
  }
  write_file_atomically(path, std::string(size_t{40} << 20, '{'));
  EXPECT_TRUE(read_records(path).empty());
}

}  // namespace
}  // namespace train_sft

#include "train_sft/train/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <sstream>

#include "support/python.h"
#include "support/temporary_directory.h"
#include "train/tensorboard.h"
#include "train_sft/base/file.h"
#include "train_sft/base/json.h"

namespace train_sft {
namespace {

StepMetrics at_step(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 10.0 / static_cast<double>(step);
  metrics.lr = 1e-3;
  metrics.grad_norm = 0.5;
  return metrics;
}

std::vector<Json> lines_of(const std::string& path) {
  std::vector<Json> lines;
  std::istringstream text(read_file(path));
  for (std::string line; std::getline(text, line);) lines.push_back(parse_json(line, path));
  return lines;
}

std::vector<int64_t> steps_of(const std::string& path) {
  std::vector<int64_t> steps;
  for (const Json& line : lines_of(path)) steps.push_back(line["step"].get<int64_t>());
  return steps;
}

void append(const std::string& path, const std::string& text) {
  FileWriter file(path, FileWriter::Mode::append);
  file.write(text);
  file.close();
}

std::string event_file(const std::string& tensorboard_dir) {
  const auto names = list_directory(tensorboard_dir);
  EXPECT_EQ(names.size(), 1u);
  return join_path(tensorboard_dir, names.at(0));
}

// What the real reader finds: a line "tag step value" for each scalar, then for each text.
constexpr const char* kReadEvents = R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'tensors': 0})
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    for e in events.Scalars(tag):
        print(tag, e.step, round(e.value, 4))
for tag in sorted(events.Tags()['tensors']):
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == 'text'
    for e in events.Tensors(tag):
        print(tag, e.step, e.tensor_proto.string_val[0].decode())
)";

TEST(Crc32cTest, AgreesWithRfc3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
}

TEST(MetricsTest, ALineHasEveryKey) {
  const TemporaryDirectory directory;
  {
    MetricsWriter writer(directory.path(), "", 0);
    writer.write(at_step(1));
    StepMetrics evaluated = at_step(2);
    evaluated.val_loss = 2.0;
    writer.write(evaluated);
  }
  const auto lines = lines_of(directory / "metrics.jsonl");
  ASSERT_EQ(lines.size(), 2u);
  for (const char* key :
       {"step", "epoch", "tokens", "examples", "loss", "lr", "grad_norm", "tokens_per_s", "step_ms",
        "mfu", "data_wait_ms", "memory_bytes", "skipped"})
    EXPECT_TRUE(lines[0].contains(key)) << key;
  EXPECT_FALSE(lines[0].contains("val_loss"));
  EXPECT_DOUBLE_EQ(lines[1]["val_loss"].get<double>(), 2.0);
  EXPECT_NEAR(lines[1]["val_ppl"].get<double>(), 7.389056, 1e-6);
}

TEST(MetricsTest, NonFiniteNumbersAreNull) {
  const TemporaryDirectory directory;
  {
    MetricsWriter writer(directory.path(), "", 0);
    StepMetrics metrics = at_step(1);
    metrics.loss = std::numeric_limits<double>::quiet_NaN();
    metrics.grad_norm = std::numeric_limits<double>::infinity();
    metrics.skipped = true;
    writer.write(metrics);
  }
  const auto lines = lines_of(directory / "metrics.jsonl");
  EXPECT_TRUE(lines.at(0)["loss"].is_null());
  EXPECT_TRUE(lines.at(0)["grad_norm"].is_null());
  EXPECT_TRUE(lines.at(0)["skipped"].get<bool>());
}

TEST(MetricsTest, AResumeWritesEachStepOnce) {
  const TemporaryDirectory directory;
  const std::string metrics = directory / "metrics.jsonl";
  const std::string tensorboard = directory / "runs";
  {
    MetricsWriter writer(directory.path(), tensorboard, 0);
    for (int64_t step = 1; step <= 5; ++step) writer.write(at_step(step));
    writer.text("sample", 4, "four");
    writer.text("sample", 5, "five");
  }
  append(metrics, R"({"step": 6, "los)");                  // a crash tore the line
  append(event_file(tensorboard), std::string(7, '\x1'));  // and the record
  {
    MetricsWriter writer(directory.path(), tensorboard, 3);
    for (int64_t step = 4; step <= 6; ++step) writer.write(at_step(step));
    writer.text("sample", 4, "four again");
  }
  EXPECT_EQ(steps_of(metrics), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));

  const PythonResult events = run_python(kReadEvents, {event_file(tensorboard)});
  if (!events.available) GTEST_SKIP() << events.output;
  ASSERT_EQ(events.exit_code, 0) << events.output;
  EXPECT_THAT(events.output,
              ::testing::HasSubstr("train/loss 1 10.0\ntrain/loss 2 5.0\ntrain/loss 3 3.3333\n"
                                   "train/loss 4 2.5\ntrain/loss 5 2.0\ntrain/loss 6 1.6667\n"));
  EXPECT_THAT(events.output, ::testing::HasSubstr("sample 4 four again\n"));
  EXPECT_THAT(events.output, ::testing::Not(::testing::HasSubstr("sample 5")));
  EXPECT_THAT(events.output, ::testing::Not(::testing::HasSubstr("sample 4 four\n")));
}

// Histograms and texts, too: a line "tag step …" for each.
constexpr const char* kReadEverything = R"(
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'tensors': 0, 'histograms': 0})
events.Reload()
print(' '.join(sorted(events.Tags()['scalars'])))
for tag in events.Tags()['histograms']:
    for e in events.Histograms(tag):
        v = e.histogram_value
        print(tag, e.step, v.min, v.max, v.num, v.sum, v.sum_squares, v.bucket_limit, v.bucket)
for tag in events.Tags()['tensors']:
    for e in events.Tensors(tag):
        print(tag, e.step, e.tensor_proto.string_val[0].decode())
)";

TEST(MetricsTest, TensorBoardReadsEveryTag) {
  const TemporaryDirectory directory;
  const std::string tensorboard = directory / "runs";
  {
    MetricsWriter writer(directory / "out", tensorboard, 0);
    StepMetrics metrics = at_step(1);
    metrics.val_loss = 2.0;
    metrics.eval_losses["base"] = 3.0;
    metrics.signs.push_back(
        {"over_fitting", Sign::Level::warning, 1, 1, "validation rose", "stop"});
    writer.write(metrics);
    writer.histogram("weights/w", 1, {-1, 2, 3.5, 6.25, 4, {0, 2}, {1, 3}});
  }
  const PythonResult events = run_python(kReadEverything, {event_file(tensorboard)});
  if (!events.available) GTEST_SKIP() << events.output;
  ASSERT_EQ(events.exit_code, 0) << events.output;
  EXPECT_THAT(events.output,
              ::testing::HasSubstr("eval/base memory/resident_bytes speed/data_wait_ms "
                                   "speed/step_ms speed/tokens_per_s train/epoch train/grad_norm "
                                   "train/loss train/lr val/loss val/perplexity\n"));
  EXPECT_THAT(events.output,
              ::testing::HasSubstr("weights/w 1 -1.0 2.0 4.0 3.5 6.25 [0.0, 2.0] [1.0, 3.0]\n"));
  EXPECT_THAT(events.output, ::testing::HasSubstr("sign/over_fitting 1 validation rose\n"));
}

TEST(MetricsTest, ACutAtAnyByteKeepsTheWholeLinesBefore) {
  const TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  { MetricsWriter(directory.path(), "", 0).write(at_step(1)); }
  const size_t one = file_size(path);
  { MetricsWriter(directory.path(), "", 1).write(at_step(2)); }
  const std::string whole = read_file(path);
  for (size_t length = one; length < whole.size(); ++length) {
    truncate_file(path, 0);
    append(path, whole.substr(0, length));
    MetricsWriter(directory.path(), "", 2);
    EXPECT_EQ(file_size(path), one) << "cut to " << length;
  }
}

TEST(MetricsTest, OtherRunsEventFilesInTheSameFolderAreLeftAlone) {
  const TemporaryDirectory directory;
  const std::string tensorboard = directory / "runs";
  make_directories(tensorboard);
  const std::string other = join_path(tensorboard, "events.out.tfevents.1.other");
  {
    EventFile file(other);
    file.scalar("loss", 100, 1.0);
  }
  const std::string before = read_file(other);
  { MetricsWriter(directory / "out", tensorboard, 0).write(at_step(9)); }
  { MetricsWriter(directory / "out", tensorboard, 3).write(at_step(4)); }
  EXPECT_EQ(read_file(other), before);
  EXPECT_EQ(list_directory(tensorboard).size(), 2u);
}

}  // namespace
}  // namespace train_sft

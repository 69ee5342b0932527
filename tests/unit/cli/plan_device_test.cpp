// `plan` on a machine whose plugin reports a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "cli/program.h"
#include "train_sft/base/json.h"
#include "train_sft/plan/device_table.h"
#include "train_sft/train/memory_plan.h"

namespace train_sft::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Words = std::vector<std::string>;

// The loader opens one device a process: ctest runs each test in one of its own.
class PlanDeviceTest : public ::testing::Test {
 protected:
  void on(const char* gpu, const char* bytes) {
    static bool opened = false;
    if (std::exchange(opened, true)) GTEST_SKIP() << "another device is open in this process";
    const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    setenv("TRAIN_SFT_CUDA_PLUGIN", (folder / "plugins" / "libfake_plugin.so").c_str(), 1);
    setenv("FAKE_GPU", gpu, 1);
    setenv("FAKE_GPU_BYTES", bytes, 1);
  }
  ~PlanDeviceTest() override {
    for (const char* name : {"TRAIN_SFT_CUDA_PLUGIN", "FAKE_GPU", "FAKE_GPU_BYTES"}) unsetenv(name);
  }
  static std::string plan(const Words& more, int code = 0) {
    Words words{"plan", "--device",     "cuda",  "--dataset_tokens", "1e9", "--n_layer",
                "12",   "--n_head",     "12",    "--n_embd",         "768", "--family",
                "gpt2", "--vocab_size", "50257", "--batch_size",     "8",   "--block_size",
                "1024"};
    words.insert(words.end(), more.begin(), more.end());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int ended = run_program(words);
    const std::string out = ::testing::internal::GetCapturedStdout();
    const std::string err = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(ended, code) << err;
    return code == 0 ? out : err;
  }
};

TEST_F(PlanDeviceTest, OfTheTableHasItsRatesAndTheMemoryItReports) {
  on("NVIDIA H100 80GB HBM3", "8000000000");
  if (::testing::Test::IsSkipped()) return;
  const Json planned = Json::parse(plan({"--json"}));
  const DeviceRates h100 = parse_devices("h100").device;
  EXPECT_EQ(planned["device"]["name"], "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(planned["device"]["count"], 1);
  EXPECT_EQ(planned["device"]["memory_bytes"], 8e9);
  EXPECT_EQ(planned["device"]["peak_flops"], h100.bf16_flops);
  EXPECT_EQ(planned["precision"], "bf16");
  EXPECT_EQ(planned["max_memory_bytes"], 7'200'000'000);
  EXPECT_NEAR(planned["step_ms_at_peak"],
              planned["flops_per_step"].get<double>() / h100.bf16_flops * 1e3, 1e-9);
  EXPECT_EQ(planned["memory_bytes"]["program"], 0) << "of the host's memory";
  EXPECT_GT(planned["memory_bytes"]["workspace"], 64 << 20);
  // The same device, named: the rest of the plan is the same but for its memory.
  const Json named = Json::parse(plan({"--json", "--on", "h100"}));
  EXPECT_EQ(named["step_ms"], planned["step_ms"]);
  const auto largest = planned["largest_batch_size"].get<int64_t>();
  ASSERT_GT(largest, 0);
  EXPECT_LT(largest, named["largest_batch_size"]);

  // The largest micro-batch fits and one row more does not.
  const auto total = [&](int64_t rows) {
    const Json of = Json::parse(plan({"--json", "--batch_size", std::to_string(rows)}));
    return of["memory_bytes"]["total"].get<uint64_t>();
  };
  EXPECT_LE(total(largest), 7'200'000'000U);
  EXPECT_GT(total(largest + 1) + (16U << 20), 7'200'000'000U);

  EXPECT_THAT(plan({}), AllOf(HasSubstr("1 × NVIDIA H100 80GB HBM3, 8"),
                              HasSubstr("the largest batch_size that fits")));
  EXPECT_THAT(plan({"--precision", "fp8"}, 2),
              AllOf(HasSubstr("precision fp8: NVIDIA H100 80GB HBM3"), HasSubstr("--on")));
}

TEST_F(PlanDeviceTest, NotOfTheTableHasItsMemoryAndNoTime) {
  on("Strange GPU 3000", "24000000000");
  if (::testing::Test::IsSkipped()) return;
  const Json planned = Json::parse(plan({"--json"}));
  EXPECT_TRUE(planned["device"]["peak_flops"].is_null());
  EXPECT_TRUE(planned["step_ms"].is_null());
  EXPECT_GT(planned["largest_batch_size"], 0);
  EXPECT_THAT(plan({}), HasSubstr("Strange GPU 3000: its peak rate is not known here"));
}

TEST(DeviceMemoryPlaceTest, TheLossHasASixteenthWithinLimits) {
  const auto scratch = [](double gib) {
    return device_memory_place(static_cast<uint64_t>(gib * 0x1p30)).loss_scratch;
  };
  EXPECT_EQ(scratch(1), ops::kLossScratchBytes);
  EXPECT_EQ(scratch(8), int64_t{512} << 20);
  EXPECT_EQ(scratch(141), int64_t{1} << 30);
}

}  // namespace
}  // namespace train_sft::cli

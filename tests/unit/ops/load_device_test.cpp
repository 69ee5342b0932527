#include "train_sft/ops/load_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "train_sft/base/error.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

using testing::AllOf;
using testing::HasSubstr;

DeviceSearch with(const std::string& plugin, bool shows_gpu = true) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe");
  return {(program.parent_path() / "plugins" / plugin).string(), shows_gpu};
}

void expect_refused(const std::string& asked, const DeviceSearch& search, const char* why) {
  try {
    choose_device(asked, search);
    ADD_FAILURE() << asked << " was found";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("device " + asked), HasSubstr(why), HasSubstr("--device cpu")));
  }
  const ChosenDevice under_auto = choose_device("auto", search);
  EXPECT_TRUE(under_auto.device.is_cpu());
  EXPECT_THAT(under_auto.said, AllOf(HasSubstr("computing on the CPU"), HasSubstr(why)));
}

TEST(LoadDeviceTest, WithoutAGpuAutoSaysSoInOneLineAndCpuSaysNothing) {
  const ChosenDevice chosen = choose_device("auto", with("libnone.so", /*shows_gpu=*/false));
  EXPECT_TRUE(chosen.device.is_cpu());
  EXPECT_EQ(chosen.said, "no GPU here: computing on the CPU");
  EXPECT_EQ(choose_device("cpu", with("libnone.so")).said, "");
}

TEST(LoadDeviceTest, EachWayNotToHaveOneIsNamedWithTheRemedy) {
  expect_refused("cuda", with("libnone.so"), "is not there");
  expect_refused("cuda", {TRAIN_SFT_SOURCE_DIR "/README.md", true}, "cannot be loaded");
  expect_refused("cuda", with("libfake_plugin_version.so"), "interface version 77");
  expect_refused("cuda", with("libfake_plugin_torch.so"), "built with torch 1.0.0");
  expect_refused("cuda", with("libfake_plugin_no_device.so"), "the driver is too old");
  EXPECT_THROW(choose_device("cuda:3", with("libfake_plugin.so")), UsageError);
}

TEST(LoadDeviceTest, OneThatWorksIsRegisteredOnce) {
  const ChosenDevice chosen = choose_device("cuda", with("libfake_plugin.so"));
  EXPECT_EQ(chosen.device, c10::Device(c10::DeviceType::CUDA, 0));
  EXPECT_THAT(chosen.said, AllOf(HasSubstr("cuda:0"), HasSubstr("Fake 9000")));
  EXPECT_TRUE(chosen.bf16);
  EXPECT_FALSE(chosen.fp8);
  EXPECT_NE(device_table(c10::DeviceType::CUDA), nullptr);
  EXPECT_EQ(choose_device("auto", with("libfake_plugin.so")).device, chosen.device);
  EXPECT_THROW(choose_device("cuda:1", with("libfake_plugin.so")), UsageError);
  register_device_table(c10::DeviceType::CUDA, nullptr);
}

TEST(LoadDeviceTest, OfSeveralGpusEachProcessTakesItsOwn) {
  DeviceSearch search = with("libfake_plugin_four.so");
  EXPECT_EQ(count_devices("cuda", search), 4);
  EXPECT_EQ(count_devices("auto", search), 4);
  search.local_rank = 4;
  expect_refused("cuda", search, "this is process 4 of this machine, which has 4 GPUs");
  search.local_rank = 2;
  const ChosenDevice chosen = choose_device("cuda", search);
  EXPECT_EQ(chosen.device.index(), 2);
  EXPECT_EQ(chosen.connect, nullptr);  // it has no such function
  register_device_table(c10::DeviceType::CUDA, nullptr);
}

// Started so that each process is shown its own.
TEST(LoadDeviceTest, TheOnlyGpuIsTakenWhateverTheLocalRank) {
  DeviceSearch search = with("../plugins/libfake_plugin.so");  // by a name not opened before
  search.local_rank = 3;
  EXPECT_EQ(choose_device("cuda", search).device.index(), 0);
  register_device_table(c10::DeviceType::CUDA, nullptr);
}

TEST(LoadDeviceTest, NoneAreCountedWhereThereIsNone) {
  EXPECT_EQ(count_devices("auto", with("libnone.so", /*shows_gpu=*/false)), 0);
  EXPECT_EQ(count_devices("auto", with("libfake_plugin_no_device.so")), 0);
  EXPECT_THROW(count_devices("cuda", with("libfake_plugin_no_device.so")), UsageError);
}

}  // namespace
}  // namespace train_sft::ops

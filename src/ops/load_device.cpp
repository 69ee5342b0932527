#include "train_sft/ops/load_device.h"

#include <dlfcn.h>
#include <torch/headeronly/version.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>

#include "train_sft/base/error.h"
#include "train_sft/base/progress.h"
#include "train_sft/ops/device_table.h"

namespace train_sft::ops {
namespace {

const ChosenDevice* overriding_device = nullptr;

// What was opened: a process has one.
struct Opened {
  std::string plugin;
  int index;
  ChosenDevice chosen;
};
std::optional<Opened>& opened_device() {
  static std::optional<Opened> opened;
  return opened;
}

int index_of(const std::string& asked) {
  const std::string_view text(asked);
  if (text == "cuda" || text == "auto") return 0;
  int index = -1;
  const auto parsed = std::from_chars(text.data() + 5, text.data() + text.size(), index);
  TRAIN_SFT_CHECK(text.starts_with("cuda:") && parsed.ec == std::errc() && index >= 0,
                  "device '{}'", asked);
  return index;
}

// Null with the reason in `why`. The library stays loaded: its code is in the table.
const DevicePlugin* load_plugin(const std::string& path, std::string& why) {
  std::error_code none;
  if (!std::filesystem::exists(path, none)) {
    why = fmt::format(
        "{} is not there (it is built where cmake finds nvcc; TRAIN_SFT_CUDA_PLUGIN names another)",
        path);
    return nullptr;
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why = fmt::format("{} cannot be loaded: {}", path, dlerror());
    return nullptr;
  }
  using Entry = const DevicePlugin* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, kPluginEntry));
  if (entry == nullptr) {
    why = fmt::format("{} has no '{}': it is not a plugin of this program", path, kPluginEntry);
    return nullptr;
  }
  const DevicePlugin* plugin = entry();
  if (plugin->interface_version != kDeviceInterface || plugin->table_bytes != sizeof(DeviceTable)) {
    why = fmt::format(
        "{} has interface version {} ({} bytes) and this program {} ({} bytes): build both "
        "together",
        path, plugin->interface_version, plugin->table_bytes, kDeviceInterface,
        sizeof(DeviceTable));
    return nullptr;
  }
  if (std::string_view(plugin->torch_version) != TORCH_VERSION) {
    why = fmt::format("{} was built with torch {} and this program with {}: build both together",
                      path, plugin->torch_version, TORCH_VERSION);
    return nullptr;
  }
  return plugin;
}

std::optional<ChosenDevice> open_device(const DeviceSearch& search, int index, std::string& why) {
  const DevicePlugin* plugin = load_plugin(search.plugin, why);
  if (plugin == nullptr) return {};
  char reason[512] = {};
  const int count = plugin->device_count(reason, sizeof(reason));
  if (index >= count) {
    why = count == 0 ? fmt::format("no GPU can be used: {}", reason)
                     : fmt::format("there is no cuda:{}, only {} of them", index, count);
    return {};
  }
  const DeviceTable* table = plugin->open(index, reason, sizeof(reason));
  if (table == nullptr) {
    why = fmt::format("cuda:{} cannot be used: {}", index, reason);
    return {};
  }
  register_device_table(c10::DeviceType::CUDA, table);
  DevicePlugin::Properties properties;
  plugin->properties(index, &properties);
  ChosenDevice chosen;
  chosen.device = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
  chosen.bf16 = properties.bf16;
  chosen.fp8 = properties.fp8;
  chosen.memory_bytes = properties.memory_bytes;
  chosen.said = fmt::format("computing on cuda:{}: {} (compute capability {}.{}), {}", index,
                            properties.name, properties.major, properties.minor,
                            human_bytes(static_cast<double>(properties.memory_bytes)));
  return chosen;
}

}  // namespace

DeviceSearch this_machine() {
  namespace fs = std::filesystem;
  DeviceSearch search;
  std::error_code none;
  if (const char* given = std::getenv("TRAIN_SFT_CUDA_PLUGIN"); given != nullptr && *given != '\0')
    search.plugin = given;
  else
    search.plugin =
        (fs::read_symlink("/proc/self/exe", none).parent_path() / "libtrain_sft_cuda.so").string();
  search.shows_gpu = fs::exists("/dev/nvidiactl", none) || fs::exists("/dev/nvidia0", none);
  if (search.shows_gpu) return search;
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  search.shows_gpu = driver != nullptr;
  if (driver != nullptr) dlclose(driver);
  return search;
}

ChosenDevice choose_device(const std::string& asked, const DeviceSearch& search) {
  if (asked == "cpu") return {};
  if (overriding_device != nullptr) return *overriding_device;
  const bool must = asked != "auto";
  if (!must && !search.shows_gpu) return {.said = "no GPU here: computing on the CPU"};
  const int index = index_of(asked);
  std::optional<Opened>& opened = opened_device();
  if (opened && opened->plugin == search.plugin) {
    if (opened->index == index) return opened->chosen;
    throw UsageError("device: cuda:{} is in use by this process already, not {}", opened->index,
                     asked);
  }
  std::string why;
  std::optional<ChosenDevice> chosen = open_device(search, index, why);
  if (!chosen && must)
    throw UsageError("device {}: {}; --device cpu computes without a GPU, and so does auto", asked,
                     why);
  if (!chosen) return {.said = fmt::format("computing on the CPU, since {}", why)};
  opened = Opened{search.plugin, index, *chosen};
  return *chosen;
}

DeviceOverride::DeviceOverride(const ChosenDevice& device)
    : device_(device), previous_(overriding_device) {
  overriding_device = &device_;
}
DeviceOverride::~DeviceOverride() {
  overriding_device = previous_;
}

}  // namespace train_sft::ops

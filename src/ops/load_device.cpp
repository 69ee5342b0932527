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

// None: whichever falls to this process.
std::optional<int> index_of(const std::string& asked) {
  const std::string_view text(asked);
  if (text == "cuda" || text == "auto") return std::nullopt;
  int index = -1;
  const auto parsed = std::from_chars(text.data() + 5, text.data() + text.size(), index);
  TRAIN_SFT_CHECK(text.starts_with("cuda:") && parsed.ec == std::errc() && index >= 0,
                  "device '{}'", asked);
  return index;
}

struct Plugin {
  const DevicePlugin* plugin = nullptr;
  ConnectDevices connect = nullptr;
};

// Null with the reason in `why`. The library stays loaded: its code is in the table.
Plugin load_plugin(const std::string& path, std::string& why) {
  std::error_code none;
  if (!std::filesystem::exists(path, none)) {
    why = fmt::format(
        "{} is not there (it is built where cmake finds nvcc; TRAIN_SFT_CUDA_PLUGIN names another)",
        path);
    return {};
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    why = fmt::format("{} cannot be loaded: {}", path, dlerror());
    return {};
  }
  using Entry = const DevicePlugin* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, kPluginEntry));
  if (entry == nullptr) {
    why = fmt::format("{} has no '{}': it is not a plugin of this program", path, kPluginEntry);
    return {};
  }
  const DevicePlugin* plugin = entry();
  if (plugin->interface_version != kDeviceInterface || plugin->table_bytes != sizeof(DeviceTable)) {
    why = fmt::format(
        "{} has interface version {} ({} bytes) and this program {} ({} bytes): build both "
        "together",
        path, plugin->interface_version, plugin->table_bytes, kDeviceInterface,
        sizeof(DeviceTable));
    return {};
  }
  if (std::string_view(plugin->torch_version) != TORCH_VERSION) {
    why = fmt::format("{} was built with torch {} and this program with {}: build both together",
                      path, plugin->torch_version, TORCH_VERSION);
    return {};
  }
  return {plugin, reinterpret_cast<ConnectDevices>(dlsym(library, kConnectEntry))};
}

int count_of(const DevicePlugin& plugin, std::string& why) {
  char reason[512] = {};
  const int count = plugin.device_count(reason, sizeof(reason));
  if (count == 0) why = fmt::format("no GPU can be used: {}", reason);
  return count;
}

std::optional<ChosenDevice> open_device(const DeviceSearch& search, std::optional<int> named,
                                        std::string& why) {
  const auto [plugin, connect] = load_plugin(search.plugin, why);
  if (plugin == nullptr) return {};
  const int count = count_of(*plugin, why);
  if (count == 0) return {};
  const int index = named.value_or(count == 1 ? 0 : search.local_rank);
  if (index >= count) {
    why = named ? fmt::format("there is no cuda:{}, only {} of them", index, count)
                : fmt::format("this is process {} of this machine, which has {} GPUs",
                              search.local_rank, count);
    return {};
  }
  char reason[512] = {};
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
  chosen.name = properties.name;
  chosen.bf16 = properties.bf16;
  chosen.fp8 = properties.fp8;
  chosen.memory_bytes = properties.memory_bytes;
  chosen.connect = connect;
  chosen.model = fmt::format("{} (compute capability {}.{})", properties.name, properties.major,
                             properties.minor);
  chosen.said = fmt::format("computing on cuda:{}: {}, {}", index, chosen.model,
                            human_bytes(static_cast<double>(properties.memory_bytes)));
  return chosen;
}

[[noreturn]] void throw_none(const std::string& asked, const std::string& why) {
  throw UsageError("device {}: {}; --device cpu computes without a GPU, and so does auto", asked,
                   why);
}

}  // namespace

DeviceSearch this_machine() {
  namespace fs = std::filesystem;
  DeviceSearch search;
  std::error_code none;
  if (const char* given = std::getenv("TRAIN_SFT_CUDA_PLUGIN"); given != nullptr && *given != '\0')
    return {.plugin = given, .shows_gpu = true};
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
  const std::optional<int> named = index_of(asked);
  std::optional<Opened>& opened = opened_device();
  if (opened && opened->plugin == search.plugin) {
    if (!named || opened->index == *named) return opened->chosen;
    throw UsageError("device: cuda:{} is in use by this process already, not {}", opened->index,
                     asked);
  }
  std::string why;
  std::optional<ChosenDevice> chosen = open_device(search, named, why);
  if (!chosen && must) throw_none(asked, why);
  if (!chosen) return {.said = fmt::format("computing on the CPU, since {}", why)};
  opened = Opened{search.plugin, chosen->device.index(), *chosen};
  return *chosen;
}

int count_devices(const std::string& asked, const DeviceSearch& search) {
  if (overriding_device != nullptr) return 1;
  const bool must = asked != "auto";
  if (!must && !search.shows_gpu) return 0;
  std::string why;
  const Plugin found = load_plugin(search.plugin, why);
  const int count = found.plugin == nullptr ? 0 : count_of(*found.plugin, why);
  if (count == 0 && must) throw_none(asked, why);
  return count;
}

void load_early(const std::string& asked, const DeviceSearch& search) {
  if (asked == "cpu" || (asked == "auto" && !search.shows_gpu)) return;
  std::string why;  // choose_device() finds it, too, and says it
  load_plugin(search.plugin, why);
}

DeviceOverride::DeviceOverride(const ChosenDevice& device)
    : device_(device), previous_(overriding_device) {
  overriding_device = &device_;
}
DeviceOverride::~DeviceOverride() {
  overriding_device = previous_;
}

}  // namespace train_sft::ops

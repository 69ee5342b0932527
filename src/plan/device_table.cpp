#include "train_sft/plan/device_table.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr double kTera = 1e12, kGiga = 1e9;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_count(const std::string& text) {
  return !text.empty() && text.size() <= 6 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// "h100x8" and "8xh100" → "h100", 8; "rtx3090" is a name.
std::pair<std::string, int64_t> name_and_count(const std::string& text) {
  for (const DeviceRates& device : device_table())
    if (device.name == text) return {text, 1};
  const size_t first = text.find('x');
  if (first != text.npos && is_count(text.substr(0, first)))
    return {text.substr(first + 1), std::stoll(text.substr(0, first))};
  const size_t last = text.rfind('x');
  if (last != text.npos && is_count(text.substr(last + 1)))
    return {text.substr(0, last), std::stoll(text.substr(last + 1))};
  return {text, 1};
}

// Sheets give the rate of both directions together, and that of a server's eight adapters in bits.
DeviceLinks links(double both_ways, double adapter_bits, const char* source) {
  return {both_ways / 2, adapter_bits / 8, source};
}

}  // namespace

double DeviceRates::peak_flops(const std::string& precision) const {
  // Single precision runs as TF32 at half the bf16 rate on all of these.
  if (precision == "fp32") return bf16_flops / 2;
  return precision == "fp8" && fp8_flops > 0 ? fp8_flops : bf16_flops;
}

// Dense rates: where a data sheet gives "with sparsity", half of it.
const std::vector<DeviceRates>& device_table() {
  const DeviceLinks dgx_a100 = links(600 * kGiga, 200 * kGiga, "DGX A100 data sheet, 2021");
  const DeviceLinks dgx_h100 = links(900 * kGiga, 400 * kGiga, "DGX H100 data sheet, 2023");
  const DeviceLinks dgx_h200 = links(900 * kGiga, 400 * kGiga, "DGX H200 data sheet, 2024");
  const DeviceLinks dgx_b200 = links(1800 * kGiga, 400 * kGiga, "DGX B200 data sheet, 2024");
  const DeviceLinks pcie4 = links(64 * kGiga, 0, "PCI Express 4.0, 16 lanes");
  const DeviceLinks pcie5 = links(128 * kGiga, 0, "PCI Express 5.0, 16 lanes");
  static const std::vector<DeviceRates> table{
      {"a100", "NVIDIA A100 80 GB SXM", 312 * kTera, 0, 80 * kGiga, "NVIDIA A100 data sheet, 2021",
       dgx_a100},
      {"a100_40", "NVIDIA A100 40 GB", 312 * kTera, 0, 40 * kGiga, "NVIDIA A100 data sheet, 2021",
       dgx_a100},
      {"h100", "NVIDIA H100 SXM", 989.5 * kTera, 1979 * kTera, 80 * kGiga,
       "NVIDIA H100 data sheet, 2023", dgx_h100},
      {"h100_pcie", "NVIDIA H100 PCIe", 756.5 * kTera, 1513 * kTera, 80 * kGiga,
       "NVIDIA H100 data sheet, 2023", pcie5},
      {"h200", "NVIDIA H200 SXM", 989.5 * kTera, 1979 * kTera, 141 * kGiga,
       "NVIDIA H200 data sheet, 2024", dgx_h200},
      {"b200", "NVIDIA B200", 2250 * kTera, 4500 * kTera, 180 * kGiga,
       "NVIDIA DGX B200 data sheet, 2024", dgx_b200},
      {"l4", "NVIDIA L4", 121 * kTera, 242 * kTera, 24 * kGiga, "NVIDIA L4 data sheet, 2023",
       pcie4},
      {"l40s", "NVIDIA L40S", 362 * kTera, 733 * kTera, 48 * kGiga, "NVIDIA L40S data sheet, 2023",
       pcie4},
      {"a10", "NVIDIA A10", 125 * kTera, 0, 24 * kGiga, "NVIDIA A10 data sheet, 2021", pcie4},
      {"rtx3090", "NVIDIA GeForce RTX 3090", 71 * kTera, 0, 24 * kGiga,
       "NVIDIA Ampere GA102 whitepaper, 2021, appendix A", pcie4},
      {"rtx4090", "NVIDIA GeForce RTX 4090", 165.2 * kTera, 330.3 * kTera, 24 * kGiga,
       "NVIDIA Ada whitepaper, 2023, appendix A", pcie4},
  };
  return table;
}

namespace {

// "" for what the table has not.
std::string name_in_table(const std::string& driver_name, uint64_t memory_bytes) {
  std::set<std::string> words;
  for (size_t at = 0; at <= driver_name.size();) {
    const size_t end = std::min(driver_name.find_first_of(" -", at), driver_name.size());
    words.insert(lower(driver_name.substr(at, end - at)));
    at = end + 1;
  }
  const auto has = [&](const char* word) { return words.contains(word); };
  if (has("mig") || has("nvl") || has("laptop") || has("d") || has("ti") || has("super")) return "";
  if (has("a100")) return memory_bytes > uint64_t{60'000'000'000} ? "a100" : "a100_40";
  if (has("h100")) return has("pcie") ? "h100_pcie" : "h100";
  if (has("rtx") && has("3090")) return "rtx3090";
  if (has("rtx") && has("4090")) return "rtx4090";
  for (const char* name : {"h200", "b200", "l4", "l40s", "a10"})
    if (has(name)) return name;
  return "";
}

}  // namespace

DeviceRates rates_of_driver(const std::string& driver_name, uint64_t memory_bytes) {
  const std::string name = name_in_table(driver_name, memory_bytes);
  DeviceRates rates;
  for (const DeviceRates& device : device_table())
    if (device.name == name) rates = device;
  rates.description = driver_name;
  rates.memory_bytes = static_cast<double>(memory_bytes);
  return rates;
}

Devices parse_devices(const std::string& text) {
  const auto [name, count] = name_and_count(lower(text));
  std::vector<std::string> names;
  for (const DeviceRates& device : device_table()) {
    if (device.name == name && count > 0) return {device, count};
    names.push_back(device.name);
  }
  throw UsageError(
      "on: '{}' is not a device that is known here; give one of {}, with a count as in h100x8",
      text, fmt::join(names, ", "));
}

}  // namespace train_sft

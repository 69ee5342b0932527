#include "train_sft/collective/collective.h"

#include <algorithm>
#include <cstring>

namespace train_sft {
namespace {

class Done final : public Collective::Pending {
 public:
  void wait() override {}
};

class SingleProcess final : public Collective {
 public:
  SingleProcess() : Collective(ProcessPlace()) {}

  std::unique_ptr<Pending> all_reduce(const at::Tensor&, const char*) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> all_reduce_max(const at::Tensor&, const char*) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> reduce_scatter(const at::Tensor&, const ShardLimits&,
                                          const char*) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> all_gather(const at::Tensor&, const ShardLimits&, const char*) override {
    return std::make_unique<Done>();
  }
  std::vector<std::string> exchange(const std::string& mine, const char*) override {
    return {mine};
  }
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

void Collective::connect_devices(const Connect&) {
  throw InternalError("a collective without a transport between devices");
}

std::vector<std::vector<double>> Collective::exchange_numbers(const std::vector<double>& mine,
                                                              const char* name) {
  std::vector<std::vector<double>> all;
  for (const std::string& bytes : exchange(bytes_of(mine), name)) {
    all.emplace_back(mine.size());
    std::memcpy(all.back().data(), bytes.data(), bytes.size());
  }
  return all;
}

// Lengths first, then everything at the greatest length.
std::vector<std::string> Collective::exchange_text(const std::string& mine, const char* name) {
  std::vector<uint64_t> lengths;
  uint64_t longest = 0;
  for (const std::string& bytes : exchange(bytes_of(std::vector<uint64_t>{mine.size()}), name)) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    lengths.push_back(length);
    longest = std::max(longest, length);
  }
  if (longest == 0) return std::vector<std::string>(lengths.size());
  std::string padded = mine;
  padded.resize(longest);
  std::vector<std::string> all = exchange(padded, name);
  for (size_t r = 0; r < all.size(); ++r) all[r].resize(lengths[r]);
  return all;
}

void Collective::barrier(const char* name) {
  exchange(std::string(1, '\0'), name);
}

Collective& single_process() {
  static SingleProcess alone;
  return alone;
}

}  // namespace train_sft

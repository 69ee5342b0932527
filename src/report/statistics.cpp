#include "report/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "train_sft/base/error.h"

namespace train_sft {

double median(std::vector<double> values) {
  TRAIN_SFT_CHECK(!values.empty(), "no values");
  const size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(half),
                   values.end());
  if (values.size() % 2 == 1) return values[half];
  const double below =
      *std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(half));
  return (below + values[half]) / 2;
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double standard_error(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double centre = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - centre) * (value - centre);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

LevelOfRanges::Moments LevelOfRanges::Moments::operator+(const Moments& other) const {
  const double n = count + other.count, apart = other.mean - mean;
  return {n, mean + apart * other.count / n,
          squares + other.squares + apart * apart * count * other.count / n};
}

void LevelOfRanges::add(double value) {
  Moments block{1, value, 0};
  for (size_t k = 0;; ++k) {
    if (k == blocks_.size()) blocks_.emplace_back();
    blocks_[k].push_back(block);
    const size_t n = blocks_[k].size();
    if (n % 2 == 1) return;
    block = blocks_[k][n - 2] + blocks_[k][n - 1];
  }
}

Level LevelOfRanges::level(size_t first, size_t count) const {
  TRAIN_SFT_CHECK(count > 0 && first + count <= size(), "{} values from {}", count, first);
  Moments all;
  for (size_t at = first, end = first + count; at < end;) {
    const int k = std::min(std::countr_zero(at), static_cast<int>(std::bit_width(end - at)) - 1);
    const Moments& block = blocks_[static_cast<size_t>(k)][at >> k];
    all = all.count > 0 ? all + block : block;
    at += size_t{1} << k;
  }
  return {all.mean, all.count < 2 ? 0 : std::sqrt(all.squares / (all.count - 1) / all.count)};
}

}  // namespace train_sft

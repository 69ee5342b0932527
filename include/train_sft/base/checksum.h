// XXH3-128 of bytes and files, as 32 hex digits.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace train_sft {

class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string checksum_of(std::string_view text);
std::string checksum_of_file(const std::string& path);

}  // namespace train_sft

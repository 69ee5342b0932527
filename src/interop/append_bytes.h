// Little-endian numbers at the end of bytes that will be written to a file.
#pragma once

#include <cstring>
#include <string>

namespace train_sft {

template <typename T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

}  // namespace train_sft

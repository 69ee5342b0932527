// Runs a Python program in the project's environment: other implementations of a format are the
// judges of ours. Where there is no environment the tests that need it are skipped, by name.
#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/temporary_directory.h"

namespace train_sft {

struct PythonResult {
  bool available = false;
  int exit_code = -1;
  std::string output;  // stdout and stderr
};

inline PythonResult run_python(const std::string& program,
                               const std::vector<std::string>& arguments) {
  const std::string python = TRAIN_SFT_SOURCE_DIR "/.venv/bin/python";
  PythonResult result;
  if (!std::filesystem::exists(python)) {
    result.output = python + " is not there; scripts/setup.sh makes it";
    return result;
  }
  result.available = true;
  const TemporaryDirectory directory;
  std::ofstream(directory / "program.py") << program;
  std::string command = "'" + python + "' '" + (directory / "program.py") + "'";
  for (const auto& argument : arguments) command += " '" + argument + "'";
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe))
    result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

}  // namespace train_sft

// write_seeds FOLDER: the seeds of every target as FOLDER/<target>/seed<n>; prints the targets.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "fuzz/targets.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_seeds FOLDER\n");
    return 2;
  }
  for (const auto& target : train_sft::fuzz_targets()) {
    const auto folder = std::filesystem::path(argv[1]) / target.name;
    std::filesystem::create_directories(folder);
    int number = 0;
    for (const std::string& bytes : target.seeds())
      std::ofstream(folder / ("seed" + std::to_string(number++)), std::ios::binary) << bytes;
    std::printf("%s\n", target.name);
  }
  return 0;
}

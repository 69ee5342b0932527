// tokenizer_bench TOKENIZER DOCUMENTS THREADS
//
// Encodes documents (a file in which a zero byte ends each) on that many threads and prints one
// JSON object: seconds, bytes, tokens, and the sum of all ids. What tokenizer.py compares with
// `tokenizers`.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/text/tokenizer.h"

namespace train_sft {
namespace {

struct Result {
  double seconds = 0;
  uint64_t tokens = 0;
  uint64_t sum = 0;
};

Result encode_all(const Tokenizer& tokenizer, const std::vector<std::string_view>& documents,
                  size_t threads) {
  std::vector<std::vector<int32_t>> ids(documents.size());
  const auto start = std::chrono::steady_clock::now();
  std::atomic<size_t> next{0};
  std::vector<std::thread> team;
  for (size_t t = 0; t < threads; ++t) {
    team.emplace_back([&] {
      for (size_t i = next++; i < documents.size(); i = next++) {
        ids[i] = tokenizer.encode(documents[i]);
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  Result result;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const auto& document : ids) {
    result.tokens += document.size();
    for (const int32_t id : document) result.sum += static_cast<uint64_t>(id);
  }
  return result;
}

int run(const std::vector<std::string>& arguments) {
  const auto tokenizer = load_tokenizer(arguments[0]);
  const std::string text = read_file(arguments[1], uint64_t{8} << 30);
  std::vector<std::string_view> documents;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\0', begin), text.size());
    documents.push_back(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
  }
  const Result result = encode_all(*tokenizer, documents, std::stoul(arguments[2]));
  fmt::print("{{\"seconds\": {:.4f}, \"bytes\": {}, \"tokens\": {}, \"sum\": {}}}\n",
             result.seconds, text.size() - documents.size(), result.tokens, result.sum);
  return 0;
}

}  // namespace
}  // namespace train_sft

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() != 3) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER DOCUMENTS THREADS\n");
    return 2;
  }
  try {
    return train_sft::run(arguments);
  } catch (const train_sft::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}

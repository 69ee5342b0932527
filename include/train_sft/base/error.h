// Errors a user can act on. Every message says what was wrong, where (file:line, byte, field) and
// what to do. Programmer errors are TRAIN_SFT_CHECK failures: exit code 1, a bug.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace train_sft {

// Process exit codes; part of the command line's contract.
enum class ExitCode : int {
  ok = 0,
  bug = 1,
  usage = 2,  // usage or configuration
  data = 3,   // data or tokenizer file
  checkpoint = 4,
  resource = 5,       // out of memory or disk
  diverged = 6,       // training diverged
  interrupted = 130,  // SIGINT, after saving
  terminated = 143,   // SIGTERM or SIGHUP, after saving
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// One class a code, each with fmt-style arguments: throw DataError("{}:{}: no field '{}'", ...).
template <ExitCode Code>
class CodedError : public Error {
 public:
  template <typename... Args>
  explicit CodedError(fmt::format_string<Args...> format, Args&&... args)
      : Error(Code, fmt::format(format, std::forward<Args>(args)...)) {}
};

using UsageError = CodedError<ExitCode::usage>;
using DataError = CodedError<ExitCode::data>;
using CheckpointError = CodedError<ExitCode::checkpoint>;
using ResourceError = CodedError<ExitCode::resource>;
using DivergedError = CodedError<ExitCode::diverged>;
using InternalError = CodedError<ExitCode::bug>;

}  // namespace train_sft

// An invariant of ours; failing it is a bug, reported with its place.
#define TRAIN_SFT_CHECK(condition, ...)                                                   \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      throw ::train_sft::InternalError("{}:{}: check failed: {}: {}", __FILE__, __LINE__, \
                                       #condition, ::fmt::format(__VA_ARGS__));           \
  } while (false)

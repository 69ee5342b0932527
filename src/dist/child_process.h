// One copy of the program, started by fork and exec.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace train_sft {

// Closed when it goes; -1: none.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { reset(); }
  int get() const { return number_; }
  bool open() const { return number_ >= 0; }
  void reset();

 private:
  int number_;
};

struct Pipe {
  Descriptor read, write;  // close-on-exec; reading does not block
};
Pipe open_pipe();

struct ChildCommand {
  std::string program;
  std::vector<std::string> arguments;    // argv, the program's name first
  std::vector<std::string> environment;  // NAME=value, all of it
  int stdout_to = -1;                    // -1: this process's own
  int stderr_to = -1;
};

// The child has no stdin, a process group of its own, no signal blocked, SIGPIPE at its default,
// and is killed when the calling thread ends. Throws ResourceError.
pid_t start_child(const ChildCommand& command);

// This process's environment with these variables set instead of what it has of them.
std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables);

}  // namespace train_sft

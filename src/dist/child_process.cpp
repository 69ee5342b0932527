#include "dist/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "train_sft/base/error.h"

extern char** environ;

namespace train_sft {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

[[noreturn]] void give_up(const char* what) {
  const int number = errno;
  // strerror() may allocate, which the child of a process with threads must not.
  constexpr std::string_view kSaid = "error: cannot start the program: ";
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, kSaid.data(), kSaid.size());
  written = ::write(STDERR_FILENO, what, std::strlen(what));
  written = ::write(STDERR_FILENO, number == ENOENT ? ": not found\n" : " failed\n",
                    number == ENOENT ? 12 : 8);
  _exit(127);
}

// Between fork and exec: only what is safe in a signal handler.
[[noreturn]] void become(const ChildCommand& command, pid_t parent, char* const* arguments,
                         char* const* environment) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) _exit(128 + SIGKILL);  // it ended before the line above
  ::setpgid(0, 0);
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing < 0 || ::dup2(nothing, STDIN_FILENO) < 0) give_up("/dev/null");
  if (nothing != STDIN_FILENO) ::close(nothing);
  if (command.stderr_to >= 0 && ::dup2(command.stderr_to, STDERR_FILENO) < 0) give_up("stderr");
  if (command.stdout_to >= 0 && ::dup2(command.stdout_to, STDOUT_FILENO) < 0) give_up("stdout");
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGTTOU, SIG_IGN);  // its group is not the terminal's, but with `stty tostop` it may log
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(command.program.c_str(), arguments, environment);
  give_up(command.program.c_str());
}

}  // namespace

void Descriptor::reset() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

Pipe open_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw ResourceError("cannot open a pipe to a process: {}; raise the limit (ulimit -n)",
                        std::strerror(errno));
  Pipe pipe{Descriptor(ends[0]), Descriptor(ends[1])};
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return pipe;
}

pid_t start_child(const ChildCommand& command) {
  const std::vector<char*> arguments = pointers(command.arguments);
  const std::vector<char*> environment = pointers(command.environment);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0)
    throw ResourceError("cannot start a process: {}; use fewer, or raise the limit (ulimit -u)",
                        std::strerror(errno));
  if (child == 0) become(command, parent, arguments.data(), environment.data());
  ::setpgid(child, child);  // here, too: whoever comes first
  return child;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> result;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text(*variable);
    const bool replaced = std::any_of(variables.begin(), variables.end(), [&](const auto& other) {
      return text.size() > other.first.size() && text[other.first.size()] == '=' &&
             text.substr(0, other.first.size()) == other.first;
    });
    if (!replaced) result.emplace_back(text);
  }
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

}  // namespace train_sft

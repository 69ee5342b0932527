#include "train/event_hook.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "train_sft/base/log.h"

extern char** environ;

namespace train_sft {
namespace {

constexpr auto kPatience = std::chrono::seconds(10);
constexpr size_t kMostRunning = 16;
// What a pipe holds for sure on Linux, so that writing never waits for the command to read.
constexpr size_t kMostBytes = 60000;
constexpr const char* kVariable = "TRAIN_SFT_EVENT";

struct Pipe {
  Pipe() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) ends = {-1, -1};
  }
  ~Pipe() {
    for (const int end : ends)
      if (end >= 0) ::close(end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  std::array<int, 2> ends{};
};

std::vector<char*> environment_with(std::string& event) {
  const std::string prefix = std::string(kVariable) + "=";
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (std::strncmp(*variable, prefix.c_str(), prefix.size()) != 0) variables.push_back(*variable);
  event.insert(0, prefix);
  variables.push_back(event.data());
  variables.push_back(nullptr);
  return variables;
}

// 0 or errno.
int spawn(const std::string& command, const std::string& text, pid_t& pid) {
  Pipe pipe;
  if (pipe.ends[0] < 0) return errno;
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_adddup2(&actions, pipe.ends[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  // Its own process group: Ctrl-C stops the run, not the command that tells of it.
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  std::string shell = "/bin/sh", option = "-c", script = command, event = text;
  const std::array<char*, 4> arguments = {shell.data(), option.data(), script.data(), nullptr};
  const std::vector<char*> variables = environment_with(event);
  const int error =
      posix_spawn(&pid, "/bin/sh", &actions, &attributes, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return error;
  const std::string line = text + "\n";  // the reading end is open here: no SIGPIPE
  return ::write(pipe.ends[1], line.data(), line.size()) < 0 ? errno : 0;
}

}  // namespace

EventHook::EventHook(std::string command) : command_(std::move(command)) {}

EventHook::~EventHook() {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!running_.empty() && std::chrono::steady_clock::now() < deadline) {
    reap();
    if (!running_.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (!running_.empty())
    log::warning("on_event: {} commands are still running; they are left to themselves",
                 running_.size());
}

void EventHook::send(const Json& event) {
  if (command_.empty()) return;
  reap();
  const std::string name = event["event"].get<std::string>();
  const std::string text = event.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (running_.size() >= kMostRunning || text.size() > kMostBytes) {
    log::warning("on_event: {}; '{}' is not sent",
                 text.size() > kMostBytes ? "the event is too long"
                                          : "the commands of earlier events are still running",
                 name);
    return;
  }
  pid_t pid = -1;
  if (const int error = spawn(command_, text, pid); error != 0)
    log::warning("on_event: the command could not be run at '{}': {}", name, std::strerror(error));
  if (pid > 0) running_.push_back(pid);
}

void EventHook::reap() {
  std::erase_if(running_, [](pid_t pid) {
    int status = 0;
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == 0) return false;
    if (ended == pid && WIFEXITED(status) && WEXITSTATUS(status) != 0)
      log::warning("on_event: the command ended with code {}", WEXITSTATUS(status));
    if (ended == pid && WIFSIGNALED(status))
      log::warning("on_event: the command was ended by signal {}", WTERMSIG(status));
    return true;
  });
}

}  // namespace train_sft

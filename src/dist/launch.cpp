#include "train_sft/dist/launch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "dist/child_process.h"
#include "dist/last_lines.h"
#include "train_sft/dist/environment.h"

namespace train_sft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 1 << 16;
constexpr size_t kMostOutputBytes = 64 << 20;  // of rank 0's stdout when it is kept

// Signals are read, not handled, while one is alive: the loop below waits for them as for output.
class SignalReader {
 public:
  SignalReader() {
    sigset_t wanted;
    sigemptyset(&wanted);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGTSTP, SIGCHLD})
      sigaddset(&wanted, number);
    ::sigprocmask(SIG_BLOCK, &wanted, &before_);
    descriptor_ = Descriptor(::signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!descriptor_.open()) {
      ::sigprocmask(SIG_SETMASK, &before_, nullptr);
      throw ResourceError("cannot watch signals: {}", std::strerror(errno));
    }
  }
  ~SignalReader() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  SignalReader(const SignalReader&) = delete;
  SignalReader& operator=(const SignalReader&) = delete;

  int descriptor() const { return descriptor_.get(); }
  // The next one's number; 0: none for now.
  int next() {
    signalfd_siginfo info{};
    return ::read(descriptor_.get(), &info, sizeof info) == ssize_t{sizeof info}
               ? static_cast<int>(info.ssi_signo)
               : 0;
  }

 private:
  sigset_t before_{};
  Descriptor descriptor_;
};

struct Process {
  pid_t pid = -1;
  bool alive = false;
  Descriptor log;  // what it writes to stderr; rank 0: none, it writes to ours
  LastLines lines;
};

struct End {
  int rank = 0;
  int status = 0;  // as waitpid gives it

  bool by_signal() const { return WIFSIGNALED(status); }
  int code() const { return by_signal() ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }
  // Perhaps: what a process that waits in vain for another throws is a ResourceError.
  bool lost_another() const { return code() == static_cast<int>(ExitCode::resource); }
  bool is_stop() const {
    return code() == static_cast<int>(ExitCode::interrupted) ||
           code() == static_cast<int>(ExitCode::terminated);
  }
};

class Supervisor {
 public:
  explicit Supervisor(const Launch& launch)
      : launch_(launch), processes_(static_cast<size_t>(launch.processes)) {}

  ~Supervisor() {  // an exception: none is left behind
    kill_all();
    for (Process& process : processes_)
      if (process.alive) ::waitpid(process.pid, nullptr, 0);
  }
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  LaunchResult run() {
    start();
    while (std::any_of(processes_.begin(), processes_.end(),
                       [](const Process& process) { return process.alive; })) {
      wait_for_something();
      while (const int number = signals_.next()) on_signal(number);
      read_output();
      reap();
      if (kill_at_ && Clock::now() >= *kill_at_) kill_all();
    }
    read_output();
    for (size_t rank = 1; rank < processes_.size(); ++rank) print(rank, lines(rank).finish());
    return result();
  }

 private:
  LastLines& lines(size_t rank) { return processes_[rank].lines; }

  void start() {
    const std::string port = std::to_string(free_port());
    const std::string size = std::to_string(launch_.processes);
    const Descriptor nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    for (size_t rank = 0; rank < processes_.size(); ++rank) {
      const std::string number = std::to_string(rank);
      ChildCommand command;
      command.program = launch_.program;
      command.arguments = {launch_.program};
      command.arguments.insert(command.arguments.end(), launch_.words.begin(), launch_.words.end());
      command.environment = environment_with({{"RANK", number},
                                              {"LOCAL_RANK", number},
                                              {"WORLD_SIZE", size},
                                              {"LOCAL_WORLD_SIZE", size},
                                              {"GROUP_RANK", "0"},
                                              {"MASTER_ADDR", "127.0.0.1"},
                                              {"MASTER_PORT", port},
                                              {kLauncherVariable, kOwnLauncher}});
      Pipe pipe;
      if (rank > 0 || launch_.keep_stdout) pipe = open_pipe();
      if (rank > 0) command.stdout_to = nowhere.get();
      (rank > 0 ? command.stderr_to : command.stdout_to) = pipe.write.get();
      Process& process = processes_[rank];
      process.pid = start_child(command);
      process.alive = true;
      (rank > 0 ? process.log : output_pipe_) = std::move(pipe.read);
    }
  }

  void wait_for_something() {
    std::vector<pollfd> watched{{signals_.descriptor(), POLLIN, 0}};
    if (output_pipe_.open()) watched.push_back({output_pipe_.get(), POLLIN, 0});
    for (const Process& process : processes_)
      if (process.log.open()) watched.push_back({process.log.get(), POLLIN, 0});
    int timeout_ms = -1;
    if (kill_at_) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(*kill_at_ - Clock::now());
      timeout_ms = static_cast<int>(std::max<int64_t>(0, left.count() + 1));
    }
    ::poll(watched.data(), watched.size(), timeout_ms);
  }

  void on_signal(int number) {
    if (number == SIGCHLD) return;  // reap() looks
    if (number == SIGTSTP) {        // Ctrl-Z: they are not in the terminal's group
      send(SIGSTOP);
      ::raise(SIGSTOP);
      send(SIGCONT);
      return;
    }
    if (number == SIGINT && stop_ == SIGINT) {
      given_up_ = true;
      kill_all();
      return;
    }
    if (number != SIGUSR1) stop_ = number;
    send(number);
  }

  void send(int number) {
    for (const Process& process : processes_)
      if (process.alive) ::kill(process.pid, number);
  }

  // With what they have started themselves.
  void kill_all() {
    for (const Process& process : processes_)
      if (process.alive) ::kill(-process.pid, SIGKILL);
    killed_ = true;
    kill_at_.reset();
  }

  void read_output() {
    std::array<char, kReadBytes> buffer;
    const auto read = [&](Descriptor& from, const auto& take) {
      // More than a pipe holds, but not for as long as somebody writes: there are others.
      for (int i = 0; i < 16 && from.open(); ++i) {
        const ssize_t count = ::read(from.get(), buffer.data(), buffer.size());
        if (count > 0) {
          take(std::string_view(buffer.data(), static_cast<size_t>(count)));
        } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
          from.reset();
        } else if (errno == EAGAIN) {
          return;
        }
      }
    };
    read(output_pipe_, [&](std::string_view text) {
      if (output_.size() + text.size() <= kMostOutputBytes) output_ += text;
    });
    for (size_t rank = 1; rank < processes_.size(); ++rank)
      read(processes_[rank].log,
           [&](std::string_view text) { print(rank, lines(rank).add(text)); });
  }

  // In one write each, so that lines of rank 0 do not end up in the middle of one.
  static void print(size_t rank, const std::vector<std::string>& lines) {
    // At a terminal rank 0's progress bar may be on the line; it draws it again.
    static const bool terminal = ::isatty(STDERR_FILENO) == 1;
    for (const std::string& line : lines) {
      const std::string text =
          fmt::format("{}[rank {}] {}\n", terminal ? "\r\x1b[2K" : "", rank, line);
      for (size_t at = 0; at < text.size();) {
        const ssize_t written = ::write(STDERR_FILENO, text.data() + at, text.size() - at);
        if (written < 0 && errno != EINTR) return;  // nobody listens: the run goes on
        if (written > 0) at += static_cast<size_t>(written);
      }
    }
  }

  // Of those that ended since the last look, the one that a signal killed failed first, and one
  // that says what happened to itself before those that lost it.
  void reap() {
    std::vector<End> ended;
    for (size_t rank = 0; rank < processes_.size(); ++rank) {
      Process& process = processes_[rank];
      int status = 0;
      if (!process.alive || ::waitpid(process.pid, &status, WNOHANG) != process.pid) continue;
      process.alive = false;
      ended.push_back({static_cast<int>(rank), status});
    }
    std::stable_sort(ended.begin(), ended.end(), [](const End& a, const End& b) {
      return std::pair(!a.by_signal(), a.lost_another()) <
             std::pair(!b.by_signal(), b.lost_another());
    });
    for (const End& end : ended) on_end(end);
  }

  void on_end(const End& end) {
    if (end.code() == 0 || given_up_) return;
    if (failed_) {
      const bool ended_by_us = end.is_stop() || (killed_ && end.by_signal());
      if (failed_->lost_another() && !end.lost_another() && !ended_by_us) failed_ = end;
      return;
    }
    // What stopped as asked, by leaving with 130 or 143 or by dying of the signal.
    if (stop_ != 0 && (end.is_stop() || (end.by_signal() && WTERMSIG(end.status) == stop_))) {
      stop_code_ = end.code();
      return;
    }
    if (stop_ == 0 && end.is_stop()) {
      // Somebody stopped that process alone. Training ends as a whole, and saves.
      stop_ = SIGTERM;
      stop_code_ = end.code();
      send(SIGTERM);
      return;
    }
    failed_ = end;
    send(SIGTERM);
    kill_at_ = Clock::now() + launch_.grace;
  }

  LaunchResult result() {
    LaunchResult result;
    result.output = std::move(output_);
    if (failed_) {
      result.exit_code = failed_->code();
      result.failure = failure(*failed_);
    } else {
      result.exit_code = given_up_ ? static_cast<int>(ExitCode::interrupted) : stop_code_;
    }
    return result;
  }

  std::string failure(const End& end) const {
    std::string how = fmt::format("ended with exit code {}", end.code());
    if (end.by_signal()) {
      const int number = WTERMSIG(end.status);
      how = fmt::format("was ended by signal {} ({})", number, ::strsignal(number));
      if (number == SIGKILL) how += ", which the system sends when memory is out";
    }
    const std::string said = processes_[static_cast<size_t>(end.rank)].lines.text();
    return fmt::format("rank {} of {} {}{}", end.rank, launch_.processes, how,
                       end.rank == 0  ? "; what it said stands above"
                       : said.empty() ? "; it said nothing"
                                      : "; the last it said:\n" + said);
  }

  const Launch& launch_;
  SignalReader signals_;
  std::vector<Process> processes_;
  Descriptor output_pipe_;
  std::string output_;
  int stop_ = 0;           // the signal that asked for it
  int stop_code_ = 0;      // of the first process that followed
  bool given_up_ = false;  // a second Ctrl-C
  bool killed_ = false;
  std::optional<End> failed_;
  std::optional<Clock::time_point> kill_at_;
};

}  // namespace

LaunchResult launch(const Launch& launch) {
  TRAIN_SFT_CHECK(launch.processes >= 1, "{} processes", launch.processes);
  return Supervisor(launch).run();
}

std::string program_path() {
  std::array<char, 4096> path{};
  constexpr const char* kSelf = "/proc/self/exe";
  const ssize_t length = ::readlink(kSelf, path.data(), path.size());
  const std::string name(path.data(), length > 0 ? static_cast<size_t>(length) : 0);
  // Another build has taken its place: what runs is still there under this name.
  if (::access(name.c_str(), X_OK) != 0) return kSelf;
  return name;
}

int free_port() {
  constexpr int kFirst = 15000, kLast = 29999;
  const auto start = static_cast<int>(Clock::now().time_since_epoch().count() % (kLast - kFirst));
  for (int i = 0; i <= kLast - kFirst; ++i) {
    const int port = kFirst + (start + i) % (kLast - kFirst + 1);
    const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (socket.open() &&
        ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
      return port;
  }
  throw ResourceError("no port on 127.0.0.1 is free between {} and {}", kFirst, kLast);
}

}  // namespace train_sft

// Small shell scripts stand for the program.
#include "train_sft/dist/launch.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "dist/child_process.h"
#include "dist/last_lines.h"
#include "support/temporary_directory.h"

namespace train_sft {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Clock = std::chrono::steady_clock;

Launch shell(int processes, const std::string& script) {
  Launch launch;
  launch.program = "/bin/sh";
  launch.words = {"-c", script};
  launch.processes = processes;
  launch.keep_stdout = true;
  return launch;
}

struct Launched {
  LaunchResult result;
  std::string log;  // stderr
  Clock::duration took{};
};

Launched run(const Launch& request) {
  Launched launched;
  const auto begin = Clock::now();
  testing::internal::CaptureStderr();
  launched.result = launch(request);
  launched.log = testing::internal::GetCapturedStderr();
  launched.took = Clock::now() - begin;
  // Neither a zombie nor a process left.
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  return launched;
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Until the process is gone, or a zombie that nobody fetches.
bool ends(pid_t pid) {
  for (const auto limit = Clock::now() + 10s; Clock::now() < limit;
       std::this_thread::sleep_for(10ms)) {
    const std::string status = read("/proc/" + std::to_string(pid) + "/stat");
    const size_t name_end = status.rfind(')');
    if (name_end == std::string::npos || status.substr(name_end + 2, 1) == "Z") return true;
  }
  return false;
}

TEST(LaunchTest, EachIsToldItsPlace) {
  const TemporaryDirectory folder;
  const Launched launched =
      run(shell(3,
                "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR "
                "$TRAIN_SFT_LAUNCHER > " +
                    folder.path() + "/$RANK; echo $MASTER_PORT > " + folder.path() + "/port$RANK"));
  EXPECT_EQ(launched.result.exit_code, 0);
  EXPECT_EQ(launched.result.failure, "");
  for (const std::string rank : {"0", "1", "2"}) {
    EXPECT_EQ(read(folder / rank), rank + " " + rank + " 3 3 0 127.0.0.1 train_sft\n");
    EXPECT_EQ(read(folder / ("port" + rank)), read(folder / "port0"));
  }
}

TEST(LaunchTest, ResultsAreRankZerosAndLogLinesSayWhose) {
  const Launched launched = run(shell(3, "echo out $RANK; echo err $RANK >&2"));
  EXPECT_EQ(launched.result.output, "out 0\n");
  std::vector<std::string> lines;
  std::istringstream log(launched.log);
  for (std::string line; std::getline(log, line);) lines.push_back(line);
  EXPECT_THAT(lines, testing::UnorderedElementsAre("err 0", "[rank 1] err 1", "[rank 2] err 2"));
}

TEST(LaunchTest, LinesWrittenInPiecesStayWhole) {
  const Launched launched =
      run(shell(4,
                "[ $RANK = 0 ] && exit; for i in 1 2 3 4 5 6 7 8 9; do printf 'line %s ' $i >&2; "
                "sleep 0.01; printf 'of %s\\n' $RANK >&2; done; printf 'no end' >&2"));
  std::istringstream log(launched.log);
  int whole = 0, last = 0;
  for (std::string line; std::getline(log, line);) {
    int prefix = 0, number = 0, rank = 0;
    if (std::sscanf(line.c_str(), "[rank %d] line %d of %d", &prefix, &number, &rank) == 3) {
      EXPECT_EQ(prefix, rank);
      ++whole;
    }
    last += line.find("] no end") != line.npos ? 1 : 0;
  }
  EXPECT_EQ(whole, 27) << launched.log;
  EXPECT_EQ(last, 3) << launched.log;
}

TEST(LaunchTest, TheFirstFailureIsNamedAndTheOthersEnd) {
  const Launched launched =
      run(shell(3,
                "if [ $RANK = 2 ]; then for i in $(seq 30); do echo step $i >&2; done; "
                "echo no room left >&2; exit 5; fi; exec sleep 60"));
  EXPECT_EQ(launched.result.exit_code, 5);
  EXPECT_THAT(launched.result.failure, HasSubstr("rank 2 of 3 ended with exit code 5"));
  EXPECT_THAT(launched.result.failure, HasSubstr("  step 30\n  no room left"));
  EXPECT_THAT(launched.result.failure, Not(HasSubstr("step 18\n")));  // the log has it
  EXPECT_THAT(launched.log, HasSubstr("[rank 2] step 18\n"));
  EXPECT_LT(launched.took, 30s);
}

TEST(LaunchTest, WhoLostAnotherIsNotTheCause) {
  // The survivor is gone before the one that failed has cleared its memory (and after the others
  // have set their traps).
  const Launched launched = run(shell(3,
                                      "trap '' TERM; case $RANK in 0) sleep 0.2; exit 5;; 1) sleep "
                                      "0.4; echo bad record >&2; exit 3;; "
                                      "2) sleep 0.6; exit 5;; esac"));
  EXPECT_EQ(launched.result.exit_code, 3);
  EXPECT_THAT(launched.result.failure, HasSubstr("rank 1 of 3 ended with exit code 3"));
  EXPECT_THAT(launched.result.failure, HasSubstr("bad record"));
}

TEST(LaunchTest, AFailureOfRankZeroPointsToItsMessage) {
  const Launched launched = run(shell(2, "[ $RANK = 0 ] && exit 3; exec sleep 60"));
  EXPECT_EQ(launched.result.exit_code, 3);
  EXPECT_EQ(launched.result.failure,
            "rank 0 of 2 ended with exit code 3; what it said stands above");
}

TEST(LaunchTest, WhoIgnoresTheEndIsKilledAfterTheGrace) {
  Launch request = shell(2,
                         "[ $RANK = 1 ] && sleep 0.3 && exit 4; trap '' TERM; "
                         "while :; do sleep 0.05; done");
  request.grace = 300ms;
  const Launched launched = run(request);
  EXPECT_EQ(launched.result.exit_code, 4);
  EXPECT_GE(launched.took, 600ms);
  EXPECT_LT(launched.took, 30s);
}

TEST(LaunchTest, ASignalThatKilledOneIsNamed) {
  const Launched killed = run(shell(2, "[ $RANK = 1 ] && kill -KILL $$; exec sleep 60"));
  EXPECT_EQ(killed.result.exit_code, 128 + SIGKILL);
  EXPECT_THAT(killed.result.failure, HasSubstr("rank 1 of 2 was ended by signal 9 (Killed)"));
  EXPECT_THAT(killed.result.failure, HasSubstr("memory"));
  const Launched broken = run(shell(2, "[ $RANK = 0 ] && kill -SEGV $$; exec sleep 60"));
  EXPECT_EQ(broken.result.exit_code, 128 + SIGSEGV);
  EXPECT_THAT(broken.result.failure, HasSubstr("rank 0 of 2 was ended by signal 11"));
}

// Each says that it is ready, stops as asked, and rank 0 sends the launcher the signal once all
// are.
std::string stopping_script(const TemporaryDirectory& folder, const std::string& send) {
  const std::string at = folder.path();
  return "trap 'echo TERM >> " + at +
         "/got$RANK; exit 143' TERM\n"
         "trap 'echo INT >> " +
         at +
         "/got$RANK; exit 130' INT\n"
         "trap 'echo USR1 >> " +
         at +
         "/got$RANK; exit 0' USR1\n"
         "touch " +
         at +
         "/ready$RANK\n"
         "if [ $RANK = 0 ]; then until [ -e " +
         at + "/ready1 -a -e " + at + "/ready2 ]; do sleep 0.01; done\n" + send +
         "\nfi\nfor i in $(seq 1000); do sleep 0.02; done; exit 1";
}

struct Forwarded {
  const char* name;
  int exit_code;
};

class ForwardedSignals : public testing::TestWithParam<Forwarded> {};

TEST_P(ForwardedSignals, ReachEachOnce) {
  const TemporaryDirectory folder;
  const Launched launched =
      run(shell(3, stopping_script(folder, std::string("kill -") + GetParam().name + " $PPID")));
  EXPECT_EQ(launched.result.exit_code, GetParam().exit_code);
  EXPECT_EQ(launched.result.failure, "");
  for (const char* rank : {"got0", "got1", "got2"})
    EXPECT_EQ(read(folder / rank), std::string(GetParam().name) + "\n") << rank;
}

INSTANTIATE_TEST_SUITE_P(LaunchTest, ForwardedSignals,
                         testing::Values(Forwarded{"TERM", 143}, Forwarded{"INT", 130},
                                         Forwarded{"USR1", 0}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(LaunchTest, AHangUpEndsThoseThatDoNotHandleIt) {
  const Launched launched =
      run(shell(2, "[ $RANK = 0 ] && sleep 0.2 && kill -HUP $PPID; exec sleep 60"));
  EXPECT_EQ(launched.result.exit_code, 128 + SIGHUP);
  EXPECT_EQ(launched.result.failure, "");
  EXPECT_LT(launched.took, 30s);
}

TEST(LaunchTest, ASecondInterruptEndsAtOnce) {
  const Launched launched =
      run(shell(2,
                "trap '' INT TERM; [ $RANK = 0 ] && sleep 0.3 && kill -INT $PPID && sleep 0.3 && "
                "kill -INT $PPID; while :; do sleep 0.05; done"));
  EXPECT_EQ(launched.result.exit_code, 130);
  EXPECT_EQ(launched.result.failure, "");
  EXPECT_LT(launched.took, 9s);  // no grace was waited for
}

TEST(LaunchTest, OneThatWasStoppedAloneStopsAll) {
  const TemporaryDirectory folder;
  const Launched launched = run(shell(3, "trap 'echo TERM >> " + folder.path() +
                                             "/got$RANK; exit 143' TERM; "
                                             "[ $RANK = 1 ] && sleep 0.3 && kill -TERM $$; for i "
                                             "in $(seq 1000); do sleep 0.02; done"));
  EXPECT_EQ(launched.result.exit_code, 143);
  EXPECT_EQ(launched.result.failure, "");
  EXPECT_EQ(read(folder / "got0"), "TERM\n");
  EXPECT_EQ(read(folder / "got2"), "TERM\n");
}

TEST(LaunchTest, AFailureWhileStoppingIsStillNamed) {
  const Launched launched = run(shell(
      2,
      "trap '[ $RANK = 1 ] && echo disk full >&2 && exit 5; exit 143' TERM; "
      "[ $RANK = 0 ] && sleep 0.3 && kill -TERM $PPID; for i in $(seq 1000); do sleep 0.02; done"));
  EXPECT_EQ(launched.result.exit_code, 5);
  EXPECT_THAT(launched.result.failure, HasSubstr("disk full"));
}

TEST(LaunchTest, ChildrenDieWithAKilledLauncher) {
  const TemporaryDirectory folder;
  const pid_t launcher = ::fork();
  ASSERT_GE(launcher, 0);
  if (launcher == 0) {
    launch(shell(3, "trap '' HUP TERM; echo $$ > " + folder.path() + "/new$RANK; mv " +
                        folder.path() + "/new$RANK " + folder.path() + "/pid$RANK; exec sleep 60"));
    ::_exit(0);
  }
  std::vector<pid_t> children;
  for (const char* name : {"pid0", "pid1", "pid2"}) {
    for (int i = 0; i < 1000 && !std::filesystem::exists(folder / name); ++i)
      std::this_thread::sleep_for(10ms);
    children.push_back(std::stoi(read(folder / name)));
  }
  for (const pid_t child : children) EXPECT_EQ(::kill(child, 0), 0);
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  for (const pid_t child : children) EXPECT_TRUE(ends(child)) << child;
}

TEST(LaunchTest, AProgramThatIsNotThereIsAFailure) {
  Launch request = shell(2, "");
  request.program = "/does/not/exist";
  const Launched launched = run(request);
  EXPECT_EQ(launched.result.exit_code, 127);
  EXPECT_THAT(launched.log, HasSubstr("cannot start the program: /does/not/exist: not found"));
}

TEST(LaunchTest, TheCallersSignalsAreAsBefore) {
  sigset_t before, after;
  sigprocmask(SIG_SETMASK, nullptr, &before);
  run(shell(1, "exit 0"));
  sigprocmask(SIG_SETMASK, nullptr, &after);
  for (const int number : {SIGINT, SIGTERM, SIGCHLD, SIGHUP})
    EXPECT_EQ(sigismember(&before, number), sigismember(&after, number));
}

TEST(LaunchTest, AFreePortCanBeListenedOn) {
  const int port = free_port();
  EXPECT_GE(port, 15000);
  EXPECT_LT(port, 30000);
  const Descriptor socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(socket.get(), 1), 0);
}

TEST(LaunchTest, TheProgramFindsItself) {
  EXPECT_EQ(program_path(), std::filesystem::canonical("/proc/self/exe").string());
}

TEST(LastLinesTest, ALineWithoutEndComesInPieces) {
  LastLines lines;
  EXPECT_THAT(lines.add("a\nb"), ElementsAre("a"));
  EXPECT_THAT(lines.add("c\n\nd"), ElementsAre("bc", ""));
  EXPECT_THAT(lines.finish(), ElementsAre("d"));
  EXPECT_THAT(lines.finish(), IsEmpty());
  EXPECT_EQ(lines.text(), "  a\n  bc\n  \n  d");
  EXPECT_EQ(lines.add(std::string(100'000, 'x')).size(), 6u);
}

TEST(EnvironmentWithTest, ReplacesWholeNamesOnly) {
  ::setenv("TRAIN_SFT_TEST_RANK", "old", 1);
  ::setenv("TRAIN_SFT_TEST_RANKS", "kept", 1);
  const std::vector<std::string> variables = environment_with({{"TRAIN_SFT_TEST_RANK", "new"}});
  EXPECT_EQ(std::ranges::count(variables, "TRAIN_SFT_TEST_RANK=new"), 1);
  EXPECT_EQ(std::ranges::count(variables, "TRAIN_SFT_TEST_RANKS=kept"), 1);
  EXPECT_THAT(variables, Not(testing::Contains("TRAIN_SFT_TEST_RANK=old")));
}

}  // namespace
}  // namespace train_sft

// A run killed with SIGKILL anywhere, and resumed, ends with the weights, moments and records of
// the run that was not.
//
//   kill_everywhere [KILLS [RANDOM [SEED]]]
//
// KILLS in each phase (20; 0: at every place of it), then RANDOM at random moments (40).
//
// Each run is a child process. In a phase it ends itself: before the n-th file operation, seen at
// the file seam, or at the n-th test point. At a random moment the parent kills it. The parent
// starts no thread and runs nothing, so that LibTorch is loaded once and children cost
// milliseconds.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>

#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/file_system.h"
#include "train_sft/base/log.h"
#include "train_sft/base/test_point.h"
#include "train_sft/train/trainer.h"

namespace train_sft {
namespace {

constexpr int kSteps = 12;
constexpr int64_t kNever = -1;

struct Phase {
  const char* name;
  const char* test_point;  // null: file operations
  bool (*is_in)(const std::string& operation, const std::string& path);
};

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

const Phase kPhases[] = {
    {"tokenise", "tokenise", nullptr},
    {"micro-step", "micro_step", nullptr},
    {"evaluation", "evaluation", nullptr},
    {"cache", nullptr,
     [](const std::string&, const std::string& path) { return contains(path, "out/cache"); }},
    {"tokenizer files", nullptr,
     [](const std::string&, const std::string& path) { return contains(path, "out/tokenizer"); }},
    {"files of a save", nullptr,
     [](const std::string&, const std::string& path) { return contains(path, ".saving_"); }},
    {"commit and links", nullptr,
     [](const std::string& operation, const std::string& path) {
       return contains(path, "out/latest") || contains(path, "out/best_model") ||
              (operation != "write" && contains(path, "out/step_"));
     }},
    {"retention", nullptr,
     [](const std::string&, const std::string& path) {
       return contains(path, ".removing_") || contains(path, "manifest.json.tmp");
     }},
    {"records", nullptr,
     [](const std::string&, const std::string& path) {
       return contains(path, "metrics.jsonl") || contains(path, "tfevents") ||
              contains(path, "samples.jsonl");
     }},
    {"any file operation", nullptr, [](const std::string&, const std::string&) { return true; }},
};

// Shared with the children, which count into it.
struct Shared {
  std::atomic<int64_t> count;
};
Shared* shared = nullptr;
int64_t kill_at = kNever;
const Phase* phase_now = nullptr;

void place_of_phase() {
  if (shared->count.fetch_add(1) == kill_at) kill(getpid(), SIGKILL);
}

class Killer : public ForwardingFileSystem {
 public:
  Killer() : ForwardingFileSystem(posix_file_system()) {}
  int open(const std::string& path, int flags, mode_t mode) override {
    if ((flags & O_CREAT) != 0) see("open", path);
    const int fd = ForwardingFileSystem::open(path, flags, mode);
    if (fd >= 0 && fd < kDescriptors) paths_[fd] = path;
    return fd;
  }
  ssize_t write(int fd, const void* bytes, size_t count) override {
    see("write", path_of(fd));
    return ForwardingFileSystem::write(fd, bytes, count);
  }
  int fsync(int fd) override {
    see("fsync", path_of(fd));
    return ForwardingFileSystem::fsync(fd);
  }
  int rename(const std::string& from, const std::string& to) override {
    see("rename", to);
    return ForwardingFileSystem::rename(from, to);
  }
  int unlink(const std::string& path) override {
    see("unlink", path);
    return ForwardingFileSystem::unlink(path);
  }
  int mkdir(const std::string& path, mode_t mode) override {
    see("mkdir", path);
    return ForwardingFileSystem::mkdir(path, mode);
  }
  int rmdir(const std::string& path) override {
    see("rmdir", path);
    return ForwardingFileSystem::rmdir(path);
  }
  int symlink(const std::string& target, const std::string& link) override {
    see("symlink", link);
    return ForwardingFileSystem::symlink(target, link);
  }
  int truncate(const std::string& path, uint64_t bytes) override {
    see("truncate", path);
    return ForwardingFileSystem::truncate(path, bytes);
  }

 private:
  static constexpr int kDescriptors = 256;
  static std::string path_of(int fd) { return fd < kDescriptors ? paths_[fd] : ""; }
  static void see(const char* operation, const std::string& path) {
    if (phase_now->is_in != nullptr && phase_now->is_in(operation, path)) place_of_phase();
  }
  static inline std::string paths_[kDescriptors];
};

void at_test_point(const char* name) {
  if (phase_now->test_point != nullptr && std::strcmp(name, phase_now->test_point) == 0)
    place_of_phase();
}

using Values = std::vector<std::pair<const char*, Json>>;

// What differs between the kinds of run that are killed.
struct Kind {
  const char* name;
  Values values;
};

const Kind kText = {"text, packed sequentially, fp32, constant learning rate after warm-up",
                    {{"data", {"texts.jsonl"}},
                     {"tokenizer_type", "char"},
                     {"lr_schedule", "constant"},
                     {"grad_accum", 2}}};
const Kind kChat = {"conversations, best fit, bf16, cosine, a bpe tokenizer",
                    {{"data", {"chats.jsonl"}},
                     {"tokenizer_type", "bpe"},
                     {"vocab_size", 300},
                     {"packing", "best_fit"},
                     {"precision", "bf16"},
                     {"lr_schedule", "cosine"},
                     {"skip_spikes", 2.0}}};

Settings settings(const Kind& kind) {
  Settings settings;
  const Values common = {{"n_layer", 1},
                         {"n_head", 2},
                         {"n_embd", 16},
                         {"block_size", 32},
                         {"batch_size", 2},
                         {"max_iters", kSteps},
                         {"warmup_iters", 2},
                         {"learning_rate", 1e-2},
                         {"dropout", 0.1},
                         {"eval_interval", 4},
                         {"save_interval", 3},
                         {"val_split", 0.1},
                         {"keep", 1},
                         {"keep_optimizer", 1},
                         {"sample_interval", 5},
                         {"log_interval", 1},
                         {"use_tensorboard", true},
                         {"threads", 1},
                         {"out_dir", "out"},
                         {"cache_dir", "out/cache"},
                         {"tensorboard_dir", "out/runs"},
                         {"resume", "auto"}};
  for (const Values& values : {common, kind.values})
    for (const auto& [name, value] : values) settings.set(name, value, "command line");
  return settings;
}

// Begins a run in a child that ends itself at the n-th place of the phase.
pid_t start(const Kind& kind, const Phase& phase, int64_t n) {
  shared->count = 0;
  const pid_t child = fork();
  if (child != 0) return child;
  phase_now = &phase;
  kill_at = n;
  log::set_level(log::Level::error);
  Killer killer;
  const ScopedFileSystem scope(killer);
  test_point_hook = at_test_point;
  try {
    _exit(static_cast<int>(train(settings(kind)).code));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(99);
  }
}

// What waitpid says of a run killed at the n-th place of the phase, or not at all.
int run(const Kind& kind, const Phase& phase, int64_t n) {
  int status = 0;
  waitpid(start(kind, phase, n), &status, 0);
  return status;
}

bool was_killed(int status) {
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

// All that must not depend on how a run was disturbed, as one text.
std::string outcome() {
  std::string all;
  for (const char* name : {"model.safetensors", "optimizer.safetensors"})
    all += read_file(fmt::format("out/latest/{}", name));
  all += read_link("out/latest") + read_link("out/best_model");
  for (const char* name : {"out/metrics.jsonl", "out/samples.jsonl"}) {
    std::istringstream lines(read_file(name));
    for (std::string line; std::getline(lines, line);) {
      const Json json = Json::parse(line);
      for (const char* key : {"step", "loss", "lr", "grad_norm", "val_loss", "tokens", "sample"})
        if (json.contains(key)) all += json[key].dump() + " ";
    }
  }
  return all;
}

void write_data() {
  std::ofstream lines("texts.jsonl"), chats("chats.jsonl");
  for (int i = 0; i < 300; ++i) {
    const std::string text = fmt::format("line {} of {} says {}", i * 7 % 300, i % 9, i * i);
    lines << Json({{"text", text}}).dump() << "\n";
    chats << Json({{"prompt", fmt::format("{}?", i)}, {"completion", text}}).dump() << "\n";
  }
}

bool fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  return false;
}

// The run that nobody kills. Nothing when it fails.
std::optional<std::string> undisturbed(const Kind& kind, const Phase& phase) {
  std::filesystem::remove_all("out");
  if (run(kind, phase, kNever) == 0) return outcome();
  fail("the run that is not killed ends with an error");
  return std::nullopt;
}

bool ends_as_expected(const Kind& kind, const std::string& expected, const std::string& where) {
  if (run(kind, kPhases[0], kNever) != 0)
    return fail(where + ": the resumed run ends with an error");
  return outcome() == expected || fail(where + ": the resumed run ends differently");
}

// Kills at places spread over the phase; every third resumed run is killed, too.
bool kill_in(const Phase& phase, int64_t kills, const std::string& expected, int& total) {
  if (undisturbed(kText, phase) != expected) return fail("two runs that were not killed differ");
  const int64_t places = shared->count;
  if (places == 0) return fail(fmt::format("{}: never reached", phase.name));
  const int64_t wanted = kills == 0 ? places : kills;
  int done = 0;
  int64_t hit = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t place = i * places / wanted;
    const std::string where = fmt::format("{}, place {} of {}", phase.name, place, places);
    std::filesystem::remove_all("out");
    if (!was_killed(run(kText, phase, place))) {
      // Writing beside training orders file operations anew in each run; the last may not come.
      if (phase.test_point == nullptr && place + 20 > places) continue;
      return fail(where + ": was not killed");
    }
    ++done;
    ++hit;
    if (i % 3 == 0) done += was_killed(run(kText, phase, place / 2));
    if (!ends_as_expected(kText, expected, where)) return false;
  }
  if (2 * hit < wanted)
    return fail(fmt::format("{}: only {} of {} kills hit", phase.name, hit, wanted));
  std::printf("%-20s %5lld places, %5d kills: same weights, moments, records\n", phase.name,
              static_cast<long long>(places), done);
  std::fflush(stdout);
  total += done;
  return true;
}

// Kills one, two or three times in a row at moments spread over a run's whole duration.
bool kill_at_random(const Kind& kind, int64_t kills, unsigned seed, int& total) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto expected = undisturbed(kind, kPhases[0]);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  if (!expected) return false;
  std::mt19937 chance(seed);
  int done = 0, runs = 0;
  while (done < kills) {
    std::filesystem::remove_all("out");
    for (unsigned in_a_row = 1 + chance() % 3; in_a_row > 0; --in_a_row) {
      const pid_t child = start(kind, kPhases[0], kNever);
      usleep(chance() % static_cast<unsigned>(whole.count()));
      kill(child, SIGKILL);
      int status = 0;
      waitpid(child, &status, 0);
      done += was_killed(status);
    }
    ++runs;
    if (!ends_as_expected(kind, *expected, fmt::format("random kills, run {}", runs))) return false;
  }
  std::printf(
      "random moments       %5d runs,   %5d kills: same weights, moments, records\n  (%s)\n", runs,
      done, kind.name);
  std::fflush(stdout);
  total += done;
  return true;
}

int run_all(int64_t kills, int64_t random_kills, unsigned seed) {
  const TemporaryDirectory directory;
  std::filesystem::current_path(directory.path());
  shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  write_data();
  const auto expected = undisturbed(kText, kPhases[0]);
  if (!expected) return 1;
  int total = 0;
  bool ok = true;
  for (const Phase& phase : kPhases) ok = kill_in(phase, kills, *expected, total) && ok;
  for (const Kind* kind : {&kText, &kChat})
    ok = kill_at_random(*kind, (random_kills + 1) / 2, seed, total) && ok;
  std::printf("%d kills in all\n", total);
  std::filesystem::current_path("/");
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace train_sft

int main(int argc, char** argv) {
  const auto argument = [&](int i, long long otherwise) {
    return argc > i ? std::atoll(argv[i]) : otherwise;
  };
  return train_sft::run_all(argument(1, 20), argument(2, 40),
                            static_cast<unsigned>(argument(3, 1)));
}

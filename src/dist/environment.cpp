#include "train_sft/dist/environment.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <thread>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

constexpr int kMostRanks = 1 << 20;
constexpr int kUsualPort = 29500;  // torch.distributed's
// Step ids that SLURM gives to the batch script, an interactive shell and what holds a job's extern
// processes (slurm.h, SLURM_BATCH_SCRIPT …): none of them was started by srun as one of many.
constexpr int64_t kFirstSpecialStep = 0xfffffff0;

class Variables {
 public:
  explicit Variables(const EnvironmentGetter& get) : get_(get) {}

  // An empty variable is one that is not set: `export RANK=` is how people unset them.
  std::string text(const std::string& name) const { return get_(name).value_or(""); }
  bool has(const std::string& name) const { return !text(name).empty(); }
  bool has_any(std::initializer_list<const char*> names) const { return !first(names).empty(); }

  // The first of these names that is set, "" when none is.
  std::string first(std::initializer_list<const char*> names) const {
    for (const char* name : names)
      if (has(name)) return name;
    return "";
  }

  int64_t number(const std::string& name, int64_t min, int64_t max) const {
    const std::string value = text(name);
    int64_t number = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || number < min ||
        number > max)
      throw UsageError(
          "environment variable {}: '{}' is not valid, expected a whole number from {} to {}", name,
          value, min, max);
    return number;
  }
  int count(const std::string& name) const { return static_cast<int>(number(name, 1, kMostRanks)); }
  int index(const std::string& name) const {
    return static_cast<int>(number(name, 0, kMostRanks - 1));
  }
  int port() const { return static_cast<int>(number("MASTER_PORT", 1, 65535)); }

  // All of them, or UsageError naming the one that is missing.
  void require(const std::string& launcher, std::initializer_list<const char*> names) const {
    const std::string there = first(names);
    for (const char* name : names)
      if (!has(name))
        throw UsageError(
            "environment variable {} is not set, but {} is: {} sets both; start the program with "
            "it, or unset {}",
            name, there, launcher, there);
  }

 private:
  const EnvironmentGetter& get_;
};

// Below the ports that connections take by themselves (32768 and above), above the well-known ones.
int port_of(uint64_t number) {
  return static_cast<int>(15000 + number % 15000);
}

// FNV-1a: the same on every machine.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

void below(const char* name, int value, const char* limit_name, int limit) {
  if (value < limit) return;
  throw UsageError(
      "environment variables {}={} and {}={} contradict each other: the first must be "
      "less than the second",
      name, value, limit_name, limit);
}

// The four that every launcher has.
struct Names {
  const char* rank;
  const char* local_rank;
  const char* world_size;
  const char* local_world_size;
};

ProcessPlace place_of(const Variables& variables, const std::string& launcher, const Names& names) {
  variables.require(launcher,
                    {names.rank, names.local_rank, names.world_size, names.local_world_size});
  ProcessPlace place;
  place.launcher = launcher;
  place.rank = variables.index(names.rank);
  place.local_rank = variables.index(names.local_rank);
  place.world_size = variables.count(names.world_size);
  place.local_world_size = variables.count(names.local_world_size);
  return place;
}

void check(const ProcessPlace& place, const Names& names) {
  below(names.rank, place.rank, names.world_size, place.world_size);
  below(names.local_rank, place.local_rank, names.local_world_size, place.local_world_size);
  if (place.local_world_size > place.world_size)
    throw UsageError(
        "environment variables {}={} and {}={} contradict each other: more processes on this "
        "machine than in all",
        names.local_world_size, place.local_world_size, names.world_size, place.world_size);
  if (place.world_size == place.local_world_size && place.rank != place.local_rank)
    throw UsageError(
        "environment variables {}={} and {}={} contradict each other: all {} processes are on this "
        "machine",
        names.rank, place.rank, names.local_rank, place.local_rank, place.world_size);
}

// WORLD_SIZE set in a job's script for other programs must at least be true.
void check_world_size(const Variables& variables, const ProcessPlace& place, const char* name) {
  if (!variables.has("WORLD_SIZE") || variables.count("WORLD_SIZE") == place.world_size) return;
  throw UsageError(
      "environment variables WORLD_SIZE={} and {}={} contradict each other; unset "
      "WORLD_SIZE",
      variables.count("WORLD_SIZE"), name, place.world_size);
}

ProcessPlace torchrun_place(const Variables& variables) {
  constexpr Names names{"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"};
  const std::string ours = variables.text(kLauncherVariable);
  const std::string launcher = ours.empty() ? "torchrun" : ours;
  ProcessPlace place = place_of(variables, launcher, names);
  check(place, names);
  variables.require(launcher, {names.rank, "MASTER_ADDR", "MASTER_PORT"});
  place.master_addr = variables.text("MASTER_ADDR");
  place.master_port = variables.port();
  place.node = variables.has("GROUP_RANK") ? variables.index("GROUP_RANK")
                                           : place.rank / place.local_world_size;
  below("GROUP_RANK", place.node, "WORLD_SIZE", place.world_size);
  if (variables.has("TORCHELASTIC_RESTART_COUNT"))
    place.restart_count = variables.index("TORCHELASTIC_RESTART_COUNT");
  place.run_id = variables.text("TORCHELASTIC_RUN_ID");
  return place;
}

std::optional<ProcessPlace> mpi_place(const Variables& variables, const std::string& launcher,
                                      const Names& names, const std::string& job,
                                      const char* how_to_pass) {
  ProcessPlace place = place_of(variables, launcher, names);
  check(place, names);
  if (place.world_size == 1) return std::nullopt;
  check_world_size(variables, place, names.world_size);
  const bool one_machine = place.local_world_size == place.world_size;
  place.node = one_machine ? 0 : -1;
  if (variables.has("MASTER_ADDR")) {
    place.master_addr = variables.text("MASTER_ADDR");
    place.master_port = kUsualPort;
  } else if (one_machine) {
    place.master_addr = "127.0.0.1";
    place.master_port = job.empty() ? kUsualPort : port_of(hash_of(job));
  } else {
    throw UsageError(
        "environment variable MASTER_ADDR is not set: {} started {} processes on several machines "
        "and does not tell them where rank 0 is; add {}",
        launcher, place.world_size, how_to_pass);
  }
  if (variables.has("MASTER_PORT")) place.master_port = variables.port();
  return place;
}

[[noreturn]] void no_node_list(const std::string& list) {
  throw UsageError(
      "environment variable SLURM_STEP_NODELIST: '{}' is not valid, expected hosts such as "
      "node[01-04],node7; set MASTER_ADDR to the host of rank 0",
      list);
}

// "4,2(x3)": 4 tasks on the first machine, 2 on each of three more.
int tasks_on_node(const std::string& name, const std::string& text, int node) {
  const auto invalid = [&] {
    return UsageError(
        "environment variable {}: '{}' is not valid, expected tasks a machine such as "
        "4,2(x3) for {} machines or more",
        name, text, node + 1);
  };
  const char* at = text.data();
  const char* const end = at + text.size();
  for (int64_t first = 0; at < end;) {
    int tasks = 0;
    int machines = 1;
    auto parsed = std::from_chars(at, end, tasks);
    if (parsed.ec != std::errc() || tasks < 1 || tasks > kMostRanks) throw invalid();
    at = parsed.ptr;
    if (end - at > 2 && at[0] == '(' && at[1] == 'x') {
      parsed = std::from_chars(at + 2, end, machines);
      if (parsed.ec != std::errc() || machines < 1 || parsed.ptr == end || *parsed.ptr != ')')
        throw invalid();
      at = parsed.ptr + 1;
    }
    if (node < first + machines) return tasks;
    first += machines;
    if (at < end && *at++ != ',') throw invalid();
  }
  throw invalid();
}

bool in_srun_step(const Variables& variables) {
  const std::string step = variables.first({"SLURM_STEP_ID", "SLURM_STEPID"});
  return !step.empty() &&
         variables.number(step, 0, std::numeric_limits<uint32_t>::max()) < kFirstSpecialStep;
}

void choose_slurm_master(const Variables& variables, ProcessPlace& place) {
  const std::string nodes =
      variables.first({"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"});
  if (variables.has("MASTER_ADDR")) {
    place.master_addr = variables.text("MASTER_ADDR");
  } else if (place.local_world_size == place.world_size) {
    place.master_addr = "127.0.0.1";
  } else if (!nodes.empty()) {
    place.master_addr = first_host(variables.text(nodes));
  } else {
    throw UsageError(
        "environment variable SLURM_STEP_NODELIST is not set, and neither is MASTER_ADDR: set one "
        "to where rank 0 is");
  }
  if (variables.has("MASTER_PORT")) {
    place.master_port = variables.port();
  } else {  // steps of one job at the same time get different ones
    place.master_port = port_of(hash_of(place.run_id + "." + variables.text("SLURM_STEP_ID")));
  }
}

std::optional<ProcessPlace> slurm_place(const Variables& variables) {
  const std::string tasks =
      variables.first({"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"});
  if (tasks.empty())
    throw UsageError(
        "environment variable SLURM_NTASKS is not set, but SLURM_STEP_ID is: srun sets both; start "
        "the program with it, or unset SLURM_STEP_ID");
  if (variables.count(tasks) == 1) return std::nullopt;
  variables.require("srun", {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID"});
  const std::string a_node = variables.first(
      {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"});
  if (a_node.empty())
    throw UsageError(
        "environment variable SLURM_STEP_TASKS_PER_NODE is not set, but SLURM_PROCID is: srun sets "
        "both; start the program with it, or unset SLURM_STEP_ID");
  ProcessPlace place;
  place.launcher = "SLURM";
  place.rank = variables.index("SLURM_PROCID");
  place.local_rank = variables.index("SLURM_LOCALID");
  place.node = variables.index("SLURM_NODEID");
  place.world_size = variables.count(tasks);
  place.local_world_size = a_node == "SLURM_NTASKS_PER_NODE"
                               ? variables.count(a_node)
                               : tasks_on_node(a_node, variables.text(a_node), place.node);
  place.run_id = variables.text("SLURM_JOB_ID");
  if (variables.has("SLURM_RESTART_COUNT"))
    place.restart_count = variables.index("SLURM_RESTART_COUNT");
  check(place, {"SLURM_PROCID", "SLURM_LOCALID", tasks.c_str(), a_node.c_str()});
  below("SLURM_NODEID", place.node, tasks.c_str(), place.world_size);
  check_world_size(variables, place, tasks.c_str());
  choose_slurm_master(variables, place);
  return place;
}

}  // namespace

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

std::optional<ProcessPlace> place_from_environment(const EnvironmentGetter& get) {
  const Variables variables(get);
  if (variables.has_any({"RANK", "LOCAL_RANK"})) return torchrun_place(variables);
  constexpr Names kOpenMpi{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
                           "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"};
  if (variables.has_any({kOpenMpi.rank, kOpenMpi.world_size})) {
    const std::string job = variables.first({"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"});
    return mpi_place(variables, "Open MPI", kOpenMpi, variables.text(job),
                     "-x MASTER_ADDR=HOST -x MASTER_PORT=29500 to mpirun, HOST being the first of "
                     "its machines");
  }
  constexpr Names kHydra{"PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS"};
  if (variables.has("MPI_LOCALRANKID"))
    return mpi_place(variables, "Hydra", kHydra, /*job=*/"",
                     "-genv MASTER_ADDR HOST -genv MASTER_PORT 29500 to mpiexec, HOST being the "
                     "first of its machines");
  if (in_srun_step(variables)) return slurm_place(variables);
  if (variables.has_any({"WORLD_SIZE", "LOCAL_WORLD_SIZE"}))
    variables.require("torchrun", {"WORLD_SIZE", "RANK"});
  return std::nullopt;
}

std::string unused_tasks(const EnvironmentGetter& get) {
  const Variables variables(get);
  if (!variables.has("SLURM_JOB_ID") || in_srun_step(variables)) return "";
  if (variables.has_any({"RANK", "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID"})) return "";
  const std::string tasks = variables.first({"SLURM_NTASKS", "SLURM_NPROCS"});
  if (tasks.empty() || variables.count(tasks) == 1) return "";
  return fmt::format(
      "{}={}, but this is the job's own shell, so one process trains; start it with srun to train "
      "on all of them",
      tasks, variables.count(tasks));
}

int64_t cores_of_process(const ProcessPlace& place, int64_t allowed, int64_t on_machine) {
  const bool may_bind = place.launcher != kOwnLauncher && place.launcher != "torchrun";
  const bool bound = may_bind && allowed < on_machine;
  return std::max<int64_t>(1, bound ? allowed : allowed / place.local_world_size);
}

int64_t cores_of_process(const ProcessPlace& place) {
  return cores_of_process(place, std::thread::hardware_concurrency(),
                          ::sysconf(_SC_NPROCESSORS_ONLN));
}

std::string first_host(const std::string& slurm_nodelist) {
  std::string host;
  for (size_t at = 0; at < slurm_nodelist.size(); ++at) {
    const char c = slurm_nodelist[at];
    if (c == ',') break;
    if (c == '[') {
      const size_t close = slurm_nodelist.find(']', at);
      const size_t first_end = slurm_nodelist.find_first_of("-,]", at + 1);
      if (close == std::string::npos || first_end == at + 1) no_node_list(slurm_nodelist);
      const std::string number = slurm_nodelist.substr(at + 1, first_end - at - 1);
      if (number.find_first_not_of("0123456789") != std::string::npos) no_node_list(slurm_nodelist);
      host += number;
      at = close;
      continue;
    }
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '-' || c == '_' || c == '.';
    if (!word) no_node_list(slurm_nodelist);
    host += c;
  }
  if (host.empty()) no_node_list(slurm_nodelist);
  return host;
}

}  // namespace train_sft

// Which of the processes of a run this one is, from the variables that launchers set:
//   torchrun    RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR,
//   MASTER_PORT,
//               TORCHELASTIC_RESTART_COUNT, TORCHELASTIC_RUN_ID
//               (docs.pytorch.org/docs/stable/elastic/run.html, "Environment Variables")
//   Open MPI    OMPI_COMM_WORLD_RANK, _LOCAL_RANK, _SIZE, _LOCAL_SIZE
//               (docs.open-mpi.org, "Environment variables that mpirun sets")
//   Hydra       PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS (mpiexec of MPICH and Intel
//   MPI;
//               src/pm/hydra in MPICH's sources)
//   SLURM       SLURM_PROCID, SLURM_LOCALID, SLURM_NODEID, SLURM_STEP_ID, SLURM_STEP_NUM_TASKS,
//               SLURM_STEP_TASKS_PER_NODE, SLURM_STEP_NODELIST, their older names without STEP,
//               SLURM_JOB_ID, SLURM_RESTART_COUNT (slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT
//               VARIABLES")
// in this order: a launcher that was itself started inside a SLURM job comes first. MASTER_ADDR and
// MASTER_PORT, where rank 0 listens, may be given beside any of them; torchrun alone always does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace train_sft {

struct ProcessPlace {
  int rank = 0;        // 0 … world_size - 1
  int local_rank = 0;  // of those on this machine
  int world_size = 1;
  int local_world_size = 1;
  int node = 0;             // of this machine; -1: one of several, the launcher does not say which
  std::string master_addr;  // where rank 0 listens
  int master_port = 0;
  std::string launcher;  // "train_sft", "torchrun", "Open MPI", "Hydra", "SLURM"
  // How often the launcher (torchrun, SLURM) has started the run again after a failure: above 0, it
  // goes on from its newest checkpoint as with --resume auto. A membership change of torchrun's is
  // not counted by it.
  int restart_count = 0;
  std::string run_id;  // torchrun's --rdzv-id, SLURM's job; "": none
};

// The value of a variable, if it is set.
using EnvironmentGetter = std::function<std::optional<std::string>(const std::string& name)>;
std::optional<std::string> environment_variable(const std::string& name);  // this process's

// None: this process is alone. So is one in the shell of a SLURM job (sbatch, salloc) that srun did
// not start, and one that mpirun or srun started as their only one. Throws UsageError naming the
// variable that is missing, no number, or contradicts another.
std::optional<ProcessPlace> place_from_environment(
    const EnvironmentGetter& get = environment_variable);

// A line for a person whose job has more tasks than this process, alone as it is, will use: sbatch
// --ntasks 8 without srun. "": nothing to say.
std::string unused_tasks(const EnvironmentGetter& get = environment_variable);

// How many of the cores that this process may use are its own, at least one. SLURM and MPI may have
// bound each process to its cores; where they have not, and under the other launchers, the
// processes of a machine share what all of them see.
int64_t cores_of_process(const ProcessPlace& place, int64_t allowed, int64_t on_machine);
int64_t cores_of_process(const ProcessPlace& place);

// Set beside torchrun's variables for the processes that dist/launch.h starts.
inline constexpr const char* kLauncherVariable = "TRAIN_SFT_LAUNCHER";
inline constexpr const char* kOwnLauncher = "train_sft";

// "node[003-010,12],gpu1" → "node003". Throws UsageError for what is no list of hosts.
std::string first_host(const std::string& slurm_nodelist);

}  // namespace train_sft

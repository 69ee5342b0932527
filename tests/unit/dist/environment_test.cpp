#include "train_sft/dist/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "support/message_of.h"
#include "train_sft/base/error.h"

namespace train_sft {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using Variables = std::map<std::string, std::string>;

EnvironmentGetter getter(const Variables& variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

std::optional<ProcessPlace> place(const Variables& variables) {
  return place_from_environment(getter(variables));
}

Variables with(Variables variables, const Variables& changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

std::string refusal(const Variables& variables) {
  return message_of<UsageError>([&] { place(variables); });
}

// What the launchers set for the 6th of 8 processes on two machines.
const Variables kTorchrun{{"RANK", "5"},
                          {"LOCAL_RANK", "1"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_WORLD_SIZE", "4"},
                          {"GROUP_RANK", "1"},
                          {"MASTER_ADDR", "node1"},
                          {"MASTER_PORT", "40001"},
                          {"TORCHELASTIC_RESTART_COUNT", "2"},
                          {"TORCHELASTIC_RUN_ID", "job7"}};
const Variables kSlurm{{"SLURM_JOB_ID", "1234"},
                       {"SLURM_STEP_ID", "0"},
                       {"SLURM_PROCID", "5"},
                       {"SLURM_LOCALID", "1"},
                       {"SLURM_NODEID", "1"},
                       {"SLURM_NTASKS", "8"},
                       {"SLURM_STEP_NUM_TASKS", "8"},
                       {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                       {"SLURM_STEP_NODELIST", "gpu[007-008]"},
                       {"SLURM_JOB_NODELIST", "gpu[007-009]"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "5"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "8"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                         {"MASTER_ADDR", "node1"}};
const Variables kHydra{
    {"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "4"}};

void expect_sixth_of_eight(const std::optional<ProcessPlace>& place) {
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->rank, 5);
  EXPECT_EQ(place->local_rank, 1);
  EXPECT_EQ(place->world_size, 8);
  EXPECT_EQ(place->local_world_size, 4);
}

TEST(EnvironmentTest, NoLauncherIsOneProcess) {
  EXPECT_FALSE(place({}).has_value());
  // An address alone is for the launcher that comes with it.
  EXPECT_FALSE(place({{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "1"}}).has_value());
  EXPECT_FALSE(place({{"RANK", ""}, {"WORLD_SIZE", ""}}).has_value());
}

TEST(EnvironmentTest, Torchrun) {
  const auto found = place(kTorchrun);
  expect_sixth_of_eight(found);
  EXPECT_EQ(found->node, 1);
  EXPECT_EQ(found->master_addr, "node1");
  EXPECT_EQ(found->master_port, 40001);
  EXPECT_EQ(found->launcher, "torchrun");
  EXPECT_EQ(found->restart_count, 2);
  EXPECT_EQ(found->run_id, "job7");
}

TEST(EnvironmentTest, OneProcessOfTorchrunHasAPlaceToo) {
  const auto found = place({{"RANK", "0"},
                            {"LOCAL_RANK", "0"},
                            {"WORLD_SIZE", "1"},
                            {"LOCAL_WORLD_SIZE", "1"},
                            {"MASTER_ADDR", "localhost"},
                            {"MASTER_PORT", "29500"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->node, 0);
  EXPECT_EQ(found->restart_count, 0);
}

TEST(EnvironmentTest, OurOwnChildrenSayWhoStartedThem) {
  EXPECT_EQ(place(with(kTorchrun, {{kLauncherVariable, "train_sft"}}))->launcher, "train_sft");
}

TEST(EnvironmentTest, EachMissingVariableOfTorchrunIsNamed) {
  for (const char* name :
       {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})
    EXPECT_THAT(refusal(without(kTorchrun, name)),
                HasSubstr(std::string("environment variable ") + name + " is not set"));
  EXPECT_THAT(refusal({{"WORLD_SIZE", "2"}}), HasSubstr("environment variable RANK is not set"));
}

TEST(EnvironmentTest, WhatIsNoNumberIsNamed) {
  for (const char* bad : {"x", "-1", "1.5", " 1", "1 ", "99999999999999999999", "0x1"}) {
    EXPECT_THAT(refusal(with(kTorchrun, {{"RANK", bad}})),
                HasSubstr(std::string("environment variable RANK: '") + bad + "'"));
  }
  EXPECT_THAT(refusal(with(kTorchrun, {{"WORLD_SIZE", "0"}})), HasSubstr("WORLD_SIZE: '0'"));
  EXPECT_THAT(refusal(with(kTorchrun, {{"MASTER_PORT", "65536"}})), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(refusal(with(kTorchrun, {{"MASTER_PORT", "0"}})), HasSubstr("MASTER_PORT"));
}

TEST(EnvironmentTest, ContradictionsAreNamed) {
  const auto contradiction = [](const Variables& changes) {
    return refusal(with(kTorchrun, changes));
  };
  EXPECT_THAT(contradiction({{"RANK", "8"}}), HasSubstr("RANK=8 and WORLD_SIZE=8"));
  EXPECT_THAT(contradiction({{"LOCAL_RANK", "4"}}),
              HasSubstr("LOCAL_RANK=4 and LOCAL_WORLD_SIZE=4"));
  EXPECT_THAT(contradiction({{"LOCAL_WORLD_SIZE", "9"}}),
              HasSubstr("LOCAL_WORLD_SIZE=9 and WORLD_SIZE=8"));
  EXPECT_THAT(contradiction({{"LOCAL_WORLD_SIZE", "8"}}), HasSubstr("RANK=5 and LOCAL_RANK=1"));
  EXPECT_THAT(contradiction({{"GROUP_RANK", "8"}}), HasSubstr("GROUP_RANK=8"));
}

TEST(EnvironmentTest, Slurm) {
  const auto found = place(kSlurm);
  expect_sixth_of_eight(found);
  EXPECT_EQ(found->node, 1);
  EXPECT_EQ(found->master_addr, "gpu007");
  EXPECT_EQ(found->launcher, "SLURM");
  EXPECT_EQ(found->run_id, "1234");
  EXPECT_EQ(found->restart_count, 0);
  EXPECT_EQ(place(with(kSlurm, {{"SLURM_RESTART_COUNT", "1"}}))->restart_count, 1);
}

TEST(EnvironmentTest, SlurmsRanksAgreeOnAPortAndStepsDoNotShareIt) {
  const int port = place(kSlurm)->master_port;
  EXPECT_GE(port, 15000);
  EXPECT_LT(port, 30000);
  EXPECT_EQ(place(with(kSlurm, {{"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}}))->master_port,
            port);
  EXPECT_NE(place(with(kSlurm, {{"SLURM_STEP_ID", "1"}}))->master_port, port);
  EXPECT_NE(place(with(kSlurm, {{"SLURM_JOB_ID", "1235"}}))->master_port, port);
  const auto given = place(with(kSlurm, {{"MASTER_ADDR", "ib7"}, {"MASTER_PORT", "12345"}}));
  EXPECT_EQ(given->master_addr, "ib7");
  EXPECT_EQ(given->master_port, 12345);
}

TEST(EnvironmentTest, SlurmsTasksMayDifferFromNodeToNode) {
  const auto local = [](const std::string& tasks, const std::string& node) {
    return place(with(kSlurm, {{"SLURM_STEP_TASKS_PER_NODE", tasks}, {"SLURM_NODEID", node}}))
        ->local_world_size;
  };
  EXPECT_EQ(local("2,3(x2)", "0"), 2);
  EXPECT_EQ(local("2,3(x2)", "2"), 3);
  EXPECT_EQ(local("1(x2),6", "2"), 6);
  for (const char* bad : {"", "x", "2(", "2(x", "2(x2", "0", "2,,3", "2;3", "2(x0),3"})
    EXPECT_THROW(local(bad, "1"), UsageError) << bad;
  EXPECT_THAT(message_of<UsageError>([&] { local("4", "1"); }),
              HasSubstr("SLURM_STEP_TASKS_PER_NODE: '4'"));
  EXPECT_EQ(
      place(with(without(kSlurm, "SLURM_STEP_TASKS_PER_NODE"), {{"SLURM_NTASKS_PER_NODE", "4"}}))
          ->local_world_size,
      4);
}

TEST(EnvironmentTest, SlurmsShellsAreOneProcess) {
  // sbatch's script and salloc's shell have a rank, but no step.
  EXPECT_FALSE(place(without(kSlurm, "SLURM_STEP_ID")).has_value());
  EXPECT_FALSE(place({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "1"}, {"SLURM_PROCID", "0"}}));
  // LaunchParameters=use_interactive_step gives them one that is none.
  EXPECT_FALSE(place(with(kSlurm, {{"SLURM_STEP_ID", "4294967290"}})).has_value());
  // srun --pty bash.
  EXPECT_FALSE(place(with(kSlurm, {{"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "1"}})));
}

TEST(EnvironmentTest, AJobThatForgotSrunIsTold) {
  EXPECT_THAT(unused_tasks(getter(without(kSlurm, "SLURM_STEP_ID"))),
              HasSubstr("SLURM_NTASKS=8, but this is the job's own shell"));
  EXPECT_THAT(unused_tasks(getter(kSlurm)), IsEmpty());
  EXPECT_THAT(unused_tasks(getter(with(without(kSlurm, "SLURM_STEP_ID"), kTorchrun))), IsEmpty());
  EXPECT_THAT(unused_tasks(getter({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "1"}})), IsEmpty());
  EXPECT_THAT(unused_tasks(getter({})), IsEmpty());
}

TEST(EnvironmentTest, EachMissingVariableOfSlurmIsNamed) {
  for (const char* name : {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID",
                           "SLURM_STEP_TASKS_PER_NODE"})
    EXPECT_THAT(refusal(without(kSlurm, name)),
                HasSubstr(std::string("environment variable ") + name + " is not set"));
  EXPECT_THAT(refusal(without(without(kSlurm, "SLURM_STEP_NUM_TASKS"), "SLURM_NTASKS")),
              HasSubstr("SLURM_NTASKS is not set"));
  EXPECT_THAT(refusal(without(without(kSlurm, "SLURM_STEP_NODELIST"), "SLURM_JOB_NODELIST")),
              HasSubstr("SLURM_STEP_NODELIST is not set"));
  EXPECT_THAT(refusal(with(kSlurm, {{"WORLD_SIZE", "4"}})),
              HasSubstr("WORLD_SIZE=4 and SLURM_STEP_NUM_TASKS=8"));
  expect_sixth_of_eight(place(with(kSlurm, {{"WORLD_SIZE", "8"}})));
}

TEST(EnvironmentTest, OpenMpi) {
  const auto found = place(kOpenMpi);
  expect_sixth_of_eight(found);
  EXPECT_EQ(found->master_addr, "node1");
  EXPECT_EQ(found->master_port, 29500);
  EXPECT_EQ(found->node, -1);
  EXPECT_EQ(found->launcher, "Open MPI");
  EXPECT_THAT(refusal(without(kOpenMpi, "MASTER_ADDR")), HasSubstr("add -x MASTER_ADDR=HOST"));
  EXPECT_THAT(refusal(without(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_RANK")),
              HasSubstr("OMPI_COMM_WORLD_LOCAL_RANK is not set"));
}

TEST(EnvironmentTest, MpiOnOneMachineNeedsNoAddress) {
  const Variables here{{"OMPI_COMM_WORLD_RANK", "1"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                       {"OMPI_COMM_WORLD_SIZE", "2"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                       {"PMIX_NAMESPACE", "prterun-host-77@1"}};
  const auto found = place(here);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->master_addr, "127.0.0.1");
  EXPECT_EQ(found->node, 0);
  // Two at once on one machine do not meet.
  EXPECT_NE(found->master_port,
            place(with(here, {{"PMIX_NAMESPACE", "prterun-host-78@1"}}))->master_port);
  EXPECT_FALSE(place({{"OMPI_COMM_WORLD_RANK", "0"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                      {"OMPI_COMM_WORLD_SIZE", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}));
}

TEST(EnvironmentTest, Hydra) {
  const auto found = place(kHydra);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->rank, 1);
  EXPECT_EQ(found->world_size, 4);
  EXPECT_EQ(found->launcher, "Hydra");
  EXPECT_EQ(found->master_addr, "127.0.0.1");
  EXPECT_THAT(refusal(without(kHydra, "PMI_SIZE")), HasSubstr("PMI_SIZE is not set"));
}

TEST(EnvironmentTest, ALauncherInsideASlurmJobComesFirst) {
  EXPECT_EQ(place(with(kSlurm, kTorchrun))->launcher, "torchrun");
  EXPECT_EQ(place(with(kSlurm, kOpenMpi))->launcher, "Open MPI");
  // srun --mpi=pmi2 sets two of Hydra's.
  EXPECT_EQ(place(with(kSlurm, {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}}))->launcher, "SLURM");
}

TEST(EnvironmentTest, ProcessesShareTheCoresTheyAllSee) {
  const auto cores = [](const char* launcher, int64_t allowed, int64_t on_machine) {
    ProcessPlace place;
    place.local_world_size = 4;
    place.launcher = launcher;
    return cores_of_process(place, allowed, on_machine);
  };
  EXPECT_EQ(cores("train_sft", 16, 16), 4);
  EXPECT_EQ(cores("torchrun", 16, 64), 4);  // in a container of 16 cores
  EXPECT_EQ(cores("torchrun", 2, 2), 1);
  EXPECT_EQ(cores("SLURM", 64, 64), 16);  // without binding
  EXPECT_EQ(cores("SLURM", 16, 64), 16);  // --cpus-per-task 16
  EXPECT_EQ(cores("Open MPI", 1, 64), 1);
}

TEST(FirstHostTest, OfListsAsSlurmWritesThem) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[003-010,12],gpu1"), "node003");
  EXPECT_EQ(first_host("node[7]"), "node7");
  EXPECT_EQ(first_host("node[12,14-16]"), "node12");
  EXPECT_EQ(first_host("rack[2-3]n[01-04].cluster.example.org"), "rack2n01.cluster.example.org");
  for (const char* bad : {"", ",", "node[", "node[]", "node[-1]", "node[a-b]", "node 1", "a;b",
                          "node[1-2", "node]1", "$(id)"})
    EXPECT_THROW(first_host(bad), UsageError) << bad;
}

}  // namespace
}  // namespace train_sft

#include "train/dist/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "core/base/error.h"

namespace ashlar {
namespace {

using Variables = std::map<std::string, std::string>;

Launch launch_of(const Variables& variables) {
  return read_launch([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

Variables with(Variables variables, const Variables& more) {
  for (const auto& [name, value] : more) variables[name] = value;
  return variables;
}

std::string refusal(const Variables& variables) {
  try {
    launch_of(variables);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRequest);
    return error.what();
  }
  return "accepted";
}

const Variables kPlain = {
    {"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "29500"}};
const Variables kTorchrun = with(kPlain, {{"LOCAL_RANK", "1"},
                                          {"LOCAL_WORLD_SIZE", "2"},
                                          {"GROUP_RANK", "0"},
                                          {"TORCHELASTIC_RUN_ID", "job7"},
                                          {"TORCHELASTIC_RESTART_COUNT", "3"},
                                          {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
const Variables kSrun = {{"SLURM_PROCID", "5"},       {"SLURM_NTASKS", "8"},
                         {"SLURM_LOCALID", "1"},      {"SLURM_NODEID", "2"},
                         {"SLURM_JOB_ID", "1234567"}, {"SLURM_JOB_NODELIST", "gpu[07-09,12],io1"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                            {"PMIX_NAMESPACE", "3905421313"}};

TEST(Launch, NothingSetIsOneProcess) {
  const Launch launch = launch_of({});
  EXPECT_EQ(launch.world, 1);
  EXPECT_EQ(launch.rank, 0);
  EXPECT_FALSE(launch.serves_store());
}

TEST(Launch, Torchrun) {
  const Launch launch = launch_of(kTorchrun);
  EXPECT_EQ(launch.launcher, "torchrun");
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.world, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.local_world, 2);
  EXPECT_EQ(launch.node_rank, 0);
  EXPECT_EQ(launch.address, "10.0.0.1");
  EXPECT_EQ(launch.port, 29500);
  EXPECT_TRUE(launch.agent_store);
  EXPECT_EQ(launch.restart_count, 3);
  EXPECT_EQ(launch.run_id, "job7");
  const Variables first = with(kTorchrun, {{"RANK", "0"}, {"LOCAL_RANK", "0"}});
  EXPECT_FALSE(launch_of(first).serves_store());
  EXPECT_TRUE(launch_of(without(first, "TORCHELASTIC_USE_AGENT_STORE")).serves_store());
}

TEST(Launch, EnvironmentOnly) {
  const Launch launch = launch_of(kPlain);
  EXPECT_EQ(launch.launcher, "environment");
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.world, 4);
  EXPECT_FALSE(launch.agent_store);
  EXPECT_EQ(launch_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).world, 1);
}

TEST(Launch, Srun) {
  const Launch launch = launch_of(kSrun);
  EXPECT_EQ(launch.launcher, "srun");
  EXPECT_EQ(launch.rank, 5);
  EXPECT_EQ(launch.world, 8);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.node_rank, 2);
  EXPECT_EQ(launch.address, "gpu07");
  EXPECT_EQ(launch.port, 20000 + 1234567 % 40000);
  const Launch moved = launch_of(with(kSrun, {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "4000"}}));
  EXPECT_EQ(moved.address, "h");
  EXPECT_EQ(moved.port, 4000);
  EXPECT_EQ(launch_of(with(kSrun, {{"SLURM_STEP_NUM_TASKS", "6"}})).world, 6);
}

TEST(Launch, TheShellOfASlurmJobIsNoRank) {
  EXPECT_EQ(launch_of({{"SLURM_NTASKS", "1"}, {"SLURM_JOB_ID", "3"}}).world, 1);
  const Variables shell = {{"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "3"}};
  EXPECT_NE(refusal(shell).find("use srun"), std::string::npos);
  // sbatch gives its shell SLURM_PROCID=0.
  const Variables batch =
      with(kSrun, {{"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}, {"ENVIRONMENT", "BATCH"}});
  EXPECT_NE(refusal(batch).find("use srun"), std::string::npos);
  EXPECT_EQ(launch_of(with(batch, {{"SLURM_STEP_ID", "0"}})).world, 8);
  EXPECT_EQ(launch_of(with(batch, {{"SLURM_NTASKS", "1"}})).world, 1);
}

TEST(Launch, OpenMpi) {
  const Launch launch = launch_of(kOpenMpi);
  EXPECT_EQ(launch.launcher, "Open MPI");
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.local_world, 2);
  EXPECT_EQ(launch.address, "127.0.0.1");
  EXPECT_GE(launch.port, 20000);
  EXPECT_LT(launch.port, 60000);
  const Launch other = launch_of(
      with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}}));
  EXPECT_EQ(other.port, launch.port);
  EXPECT_NE(launch_of(with(kOpenMpi, {{"PMIX_NAMESPACE", "3905421314"}})).port, launch.port);
  const Variables hosts =
      with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}});
  EXPECT_NE(refusal(hosts).find("-x MASTER_ADDR"), std::string::npos);
  EXPECT_EQ(launch_of(with(hosts, {{"MASTER_ADDR", "n1"}})).address, "n1");
  EXPECT_NE(refusal(without(kOpenMpi, "PMIX_NAMESPACE")).find("MASTER_PORT"), std::string::npos);
}

TEST(Launch, Pmi) {
  const Variables pmi = {{"PMI_RANK", "2"},
                         {"PMI_SIZE", "3"},
                         {"MPI_LOCALRANKID", "2"},
                         {"MPI_LOCALNRANKS", "3"},
                         {"MASTER_PORT", "12345"}};
  const Launch launch = launch_of(pmi);
  EXPECT_EQ(launch.rank, 2);
  EXPECT_EQ(launch.world, 3);
  EXPECT_EQ(launch.port, 12345);
  // srun --mpi=pmi2 sets both alike; mpiexec under srun does not.
  const Variables agreeing = with(kSrun, {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}});
  EXPECT_EQ(launch_of(agreeing).launcher, "srun");
  const Variables nested = with(kSrun, pmi);
  EXPECT_EQ(launch_of(nested).launcher, "MPI (PMI)");
}

TEST(Launch, Precedence) {
  EXPECT_EQ(launch_of(with(kSrun, kTorchrun)).launcher, "torchrun");
  EXPECT_EQ(launch_of(with(kOpenMpi, kPlain)).launcher, "environment");
  EXPECT_EQ(launch_of(with(kSrun, kOpenMpi)).launcher, "Open MPI");
}

TEST(Launch, HalfSetEnvironmentsNameTheVariable) {
  const auto names = [](const Variables& variables, const std::string& name) {
    const std::string text = refusal(variables);
    return text.find(name) != std::string::npos
               ? testing::AssertionSuccess()
               : testing::AssertionFailure() << "\"" << text << "\" lacks " << name;
  };
  for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
    EXPECT_TRUE(names(without(kPlain, name), name));
    EXPECT_TRUE(names(without(kTorchrun, name), name));
  }
  EXPECT_TRUE(names({{"MASTER_ADDR", "h"}}, "MASTER_ADDR"));
  EXPECT_TRUE(names({{"LOCAL_RANK", "0"}}, "LOCAL_RANK"));
  EXPECT_TRUE(names(with(kPlain, {{"RANK", "4"}}), "ranks run from 0 to 3"));
  EXPECT_TRUE(names(with(kPlain, {{"RANK", "-1"}}), "RANK is \"-1\""));
  EXPECT_TRUE(names(with(kPlain, {{"RANK", ""}}), "RANK is \"\""));
  EXPECT_TRUE(names(with(kPlain, {{"WORLD_SIZE", "4x"}}), "WORLD_SIZE is \"4x\""));
  EXPECT_TRUE(names(with(kPlain, {{"WORLD_SIZE", "0"}, {"RANK", "0"}}), "at least 1"));
  EXPECT_TRUE(names(with(kPlain, {{"MASTER_PORT", "70000"}}), "MASTER_PORT is 70000"));
  EXPECT_TRUE(names(with(kPlain, {{"MASTER_ADDR", ""}}), "MASTER_ADDR is empty"));
  EXPECT_TRUE(names(with(kTorchrun, {{"LOCAL_RANK", "2"}}), "local rank is 2"));
  EXPECT_TRUE(names(without(kSrun, "SLURM_NTASKS"), "SLURM_NTASKS"));
  EXPECT_TRUE(names(without(kSrun, "SLURM_LOCALID"), "SLURM_LOCALID"));
  EXPECT_TRUE(names(without(kSrun, "SLURM_JOB_NODELIST"), "MASTER_ADDR"));
  EXPECT_TRUE(names(without(kSrun, "SLURM_JOB_ID"), "MASTER_PORT"));
  EXPECT_TRUE(names(without(kOpenMpi, "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_RANK"));
  EXPECT_TRUE(names(without(kOpenMpi, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_SIZE"));
  EXPECT_TRUE(names({{"PMI_RANK", "0"}}, "PMI_SIZE"));
  // mpirun -x RANK=0 -x WORLD_SIZE=2: every process would be rank 0.
  const Variables copied = with(kPlain, {{"RANK", "0"}, {"WORLD_SIZE", "2"}});
  EXPECT_TRUE(names(with(kOpenMpi, copied), "OMPI_COMM_WORLD_RANK is 1"));
}

TEST(Launch, SlurmHostLists) {
  using Hosts = std::vector<std::string>;
  EXPECT_EQ(expand_slurm_hosts("n1"), (Hosts{"n1"}));
  EXPECT_EQ(expand_slurm_hosts("gpu[08-10,2],login"),
            (Hosts{"gpu08", "gpu09", "gpu10", "gpu2", "login"}));
  EXPECT_EQ(expand_slurm_hosts("r[1-2]n[3,4]x"), (Hosts{"r1n3x", "r1n4x", "r2n3x", "r2n4x"}));
  for (const char* bad :
       {"", "n[1-", "n]1[", "n[a]", "n[3-1]", "n[]", "n[1-99999999]", "a,,b", "n[[1]]"}) {
    EXPECT_THROW(expand_slurm_hosts(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace ashlar

#include "train/dist/launch.h"

#include <charconv>
#include <cstdlib>

#include "core/base/error.h"

namespace ashlar {
namespace {

// Ports that are neither reserved nor, with the usual settings, given to outgoing connections only.
constexpr int64_t kFirstPort = 20000, kPorts = 40000;

class Environment {
 public:
  explicit Environment(const EnvironmentLookup& lookup) : lookup_(lookup) {}

  std::optional<std::string> text(const std::string& name) const { return lookup_(name); }
  bool has(const std::string& name) const { return lookup_(name).has_value(); }

  std::optional<int64_t> integer(const std::string& name) const {
    const auto value = lookup_(name);
    if (!value) return std::nullopt;
    int64_t parsed = 0;
    const char* end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, parsed);
    require(!value->empty() && error == std::errc{} && stop == end && parsed >= 0,
            ErrorCode::kRequest, "environment: {} is \"{}\"; it must be a whole number, 0 or more",
            name, *value);
    return parsed;
  }

  /// `because` names what made the variable necessary.
  int64_t needed(const std::string& name, std::string_view because) const {
    const auto value = integer(name);
    require(value.has_value(), ErrorCode::kRequest,
            "environment: {} but {} is not; set {}, or unset them all for a single process",
            because, name, name);
    return *value;
  }

 private:
  const EnvironmentLookup& lookup_;
};

struct RankVariables {
  const char* rank;
  const char* world;
};

void check_rank(const Launch& launch, const RankVariables& names) {
  require(launch.world >= 1, ErrorCode::kRequest, "environment: {} is 0; it must be at least 1",
          names.world);
  require(launch.rank < launch.world, ErrorCode::kRequest,
          "environment: {} is {} but {} is {}; ranks run from 0 to {}", names.rank, launch.rank,
          names.world, launch.world, launch.world - 1);
  require(launch.local_world == 0 || launch.local_rank < launch.local_world, ErrorCode::kRequest,
          "environment: the local rank is {}, but only {} ranks run on this host",
          launch.local_rank, launch.local_world);
  require(launch.local_world <= launch.world, ErrorCode::kRequest,
          "environment: {} ranks run on this host, but {} is {}", launch.local_world, names.world,
          launch.world);
}

// MASTER_ADDR and MASTER_PORT over what the launcher itself tells.
void read_master(const Environment& env, Launch& launch) {
  if (const auto address = env.text("MASTER_ADDR")) {
    require(!address->empty(), ErrorCode::kRequest,
            "environment: MASTER_ADDR is empty; set it to the address of rank 0's host");
    launch.address = *address;
  }
  if (const auto port = env.integer("MASTER_PORT")) {
    require(*port >= 1 && *port <= 65535, ErrorCode::kRequest,
            "environment: MASTER_PORT is {}; a port lies between 1 and 65535", *port);
    launch.port = *port;
  }
}

// RANK and friends, as torchrun and people set them.
Launch from_rank_variables(const Environment& env, const std::string& launcher) {
  Launch launch;
  launch.launcher = launcher;
  launch.rank = env.needed(
      "RANK", launcher == "torchrun" ? "TORCHELASTIC_RUN_ID is set" : "WORLD_SIZE is set");
  launch.world = env.needed("WORLD_SIZE", "RANK is set");
  launch.local_rank = env.integer("LOCAL_RANK").value_or(0);
  launch.local_world = env.integer("LOCAL_WORLD_SIZE").value_or(0);
  launch.node_rank = env.integer("GROUP_RANK");
  check_rank(launch, {"RANK", "WORLD_SIZE"});
  if (launch.world == 1) return launch;
  read_master(env, launch);
  require(!launch.address.empty(), ErrorCode::kRequest,
          "environment: WORLD_SIZE is {} but MASTER_ADDR is not set; set it to the address of "
          "rank 0's host on every rank",
          launch.world);
  require(launch.port != 0, ErrorCode::kRequest,
          "environment: WORLD_SIZE is {} but MASTER_PORT is not set; set it to the same free port "
          "on every rank, such as 29500",
          launch.world);
  return launch;
}

// RANK given to every process alike (mpirun -x RANK=0) would make each of them rank 0.
void check_against(const Environment& env, const Launch& launch, const RankVariables& other) {
  const auto rank = env.integer(other.rank), world = env.integer(other.world);
  if (!rank || !world || *world != launch.world || *world == 1) return;
  require(*rank == launch.rank, ErrorCode::kRequest,
          "environment: RANK is {} but {} is {}, in a world of {} both; unset RANK and WORLD_SIZE "
          "and let the launcher number the ranks",
          launch.rank, other.rank, *rank, *world);
}

Launch from_torchrun(const Environment& env) {
  Launch launch = from_rank_variables(env, "torchrun");
  launch.run_id = env.text("TORCHELASTIC_RUN_ID").value_or("");
  launch.restart_count = env.integer("TORCHELASTIC_RESTART_COUNT").value_or(0);
  launch.agent_store = env.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  return launch;
}

Launch from_environment(const Environment& env) {
  Launch launch = from_rank_variables(env, "environment");
  check_against(env, launch, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"});
  check_against(env, launch, {"SLURM_PROCID", "SLURM_NTASKS"});
  check_against(env, launch, {"PMI_RANK", "PMI_SIZE"});
  return launch;
}

int64_t hashed_port(const std::string& job) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return kFirstPort + static_cast<int64_t>(hash % kPorts);
}

// MPI launchers say nothing of an address: on one host it is loopback, and the job's name gives all
// ranks the same port.
void mpi_address(const Environment& env, Launch& launch) {
  if (launch.world == 1) return;
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid",
                           "PMI_JOBID", "PMI_ID", "SLURM_JOB_ID"}) {
    const auto job = env.text(name);
    if (!job || job->empty()) continue;
    launch.run_id = *job;
    launch.port = hashed_port(*job);
    break;
  }
  if (launch.local_world == launch.world) launch.address = "127.0.0.1";
  read_master(env, launch);
  require(
      !launch.address.empty(), ErrorCode::kRequest,
      "environment: {} started {} ranks, {} on this host, and MASTER_ADDR is not set; export it "
      "to all of them: mpirun -x MASTER_ADDR=<address of rank 0's host> -x MASTER_PORT=29500",
      launch.launcher, launch.world,
      launch.local_world == 0 ? "an unknown number" : std::to_string(launch.local_world));
  require(launch.port != 0, ErrorCode::kRequest,
          "environment: {} gives the job no name to derive a port from; export MASTER_PORT to all "
          "ranks, such as 29500",
          launch.launcher);
}

Launch from_open_mpi(const Environment& env) {
  Launch launch;
  launch.launcher = "Open MPI";
  launch.rank = env.needed("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE is set");
  launch.world = env.needed("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK is set");
  launch.local_rank = env.integer("OMPI_COMM_WORLD_LOCAL_RANK").value_or(0);
  launch.local_world = env.integer("OMPI_COMM_WORLD_LOCAL_SIZE").value_or(0);
  check_rank(launch, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"});
  mpi_address(env, launch);
  return launch;
}

Launch from_pmi(const Environment& env) {
  Launch launch;
  launch.launcher = "MPI (PMI)";
  launch.rank = env.needed("PMI_RANK", "PMI_SIZE is set");
  launch.world = env.needed("PMI_SIZE", "PMI_RANK is set");
  launch.local_rank = env.integer("MPI_LOCALRANKID").value_or(0);
  launch.local_world = env.integer("MPI_LOCALNRANKS").value_or(0);
  check_rank(launch, {"PMI_RANK", "PMI_SIZE"});
  mpi_address(env, launch);
  return launch;
}

// The shell of sbatch carries SLURM_PROCID=0 too, but belongs to no step of srun.
bool in_srun_step(const Environment& env) {
  if (!env.has("SLURM_PROCID")) return false;
  return env.has("SLURM_STEP_ID") || env.has("SLURM_STEPID") || env.text("ENVIRONMENT") != "BATCH";
}

Launch from_srun(const Environment& env) {
  Launch launch;
  launch.launcher = "srun";
  launch.rank = env.needed("SLURM_PROCID", "SLURM_NTASKS is set");
  const auto step_tasks = env.integer("SLURM_STEP_NUM_TASKS");
  launch.world = step_tasks ? *step_tasks : env.needed("SLURM_NTASKS", "SLURM_PROCID is set");
  launch.local_rank = env.needed("SLURM_LOCALID", "SLURM_PROCID is set");
  launch.node_rank = env.integer("SLURM_NODEID");
  launch.run_id = env.text("SLURM_JOB_ID").value_or("");
  launch.restart_count = env.integer("SLURM_RESTART_COUNT").value_or(0);
  check_rank(launch, {"SLURM_PROCID", step_tasks ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS"});
  if (launch.world == 1) return launch;
  if (const auto job = env.integer("SLURM_JOB_ID")) launch.port = kFirstPort + *job % kPorts;
  read_master(env, launch);
  if (launch.address.empty()) {
    auto nodes = env.text("SLURM_STEP_NODELIST");
    if (!nodes) nodes = env.text("SLURM_JOB_NODELIST");
    require(
        nodes.has_value(), ErrorCode::kRequest,
        "environment: SLURM_NTASKS is {} but neither SLURM_JOB_NODELIST nor MASTER_ADDR is set; "
        "set MASTER_ADDR to rank 0's host",
        launch.world);
    launch.address = expand_slurm_hosts(*nodes).front();
  }
  require(launch.port != 0, ErrorCode::kRequest,
          "environment: SLURM_NTASKS is {} but neither SLURM_JOB_ID nor MASTER_PORT is set; set "
          "MASTER_PORT",
          launch.world);
  return launch;
}

// mpiexec inside srun: srun numbers its own helpers, one per node.
bool pmi_disagrees_with_srun(const Environment& env) {
  if (!env.has("PMI_RANK") || !env.has("PMI_SIZE")) return false;
  const auto tasks = env.integer("SLURM_STEP_NUM_TASKS");
  return env.integer("PMI_RANK") != env.integer("SLURM_PROCID") ||
         env.integer("PMI_SIZE") != (tasks ? tasks : env.integer("SLURM_NTASKS"));
}

Launch alone(const Environment& env) {
  const int64_t tasks = env.integer("SLURM_NTASKS").value_or(1);
  require(tasks <= 1, ErrorCode::kRequest,
          "environment: this Slurm job has SLURM_NTASKS={}, but this process was not started by "
          "srun; use srun to start all of its ranks, or unset SLURM_NTASKS for a single process",
          tasks);
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}) {
    require(!env.has(name), ErrorCode::kRequest,
            "environment: {} is set but RANK and WORLD_SIZE are not; set them on every rank, or "
            "unset {} for a single process",
            name, name);
  }
  Launch launch;
  launch.local_world = 1;
  return launch;
}

}  // namespace

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

Launch read_launch(const EnvironmentLookup& lookup) {
  const Environment env(lookup);
  if (env.has("TORCHELASTIC_RUN_ID")) return from_torchrun(env);
  if (env.has("RANK") || env.has("WORLD_SIZE")) return from_environment(env);
  if (env.has("OMPI_COMM_WORLD_RANK") || env.has("OMPI_COMM_WORLD_SIZE")) {
    return from_open_mpi(env);
  }
  const bool srun = in_srun_step(env);
  if (srun && !pmi_disagrees_with_srun(env)) return from_srun(env);
  if (env.has("PMI_RANK") || env.has("PMI_SIZE")) return from_pmi(env);
  return alone(env);
}

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar {

/// What the launcher of a run told this process. One process without a launcher is rank 0 of 1.
struct Launch {
  std::string launcher = "none";  ///< "torchrun", "environment", "Open MPI", "srun", "MPI (PMI)"
  int64_t rank = 0;
  int64_t world = 1;
  int64_t local_rank = 0;   ///< among the ranks of this host
  int64_t local_world = 0;  ///< ranks on this host; 0: the launcher does not say
  std::optional<int64_t> node_rank;
  std::string address;  ///< of the host of rank 0; empty when the world is 1
  int64_t port = 0;
  bool agent_store = false;   ///< the launcher's agent serves the store: nobody else may
  int64_t restart_count = 0;  ///< of an elastic launcher
  std::string run_id;         ///< the launcher's name of the job; may be empty

  /// Whether this process has to serve the store at address:port.
  bool serves_store() const { return world > 1 && rank == 0 && !agent_store; }
};

/// The value of an environment variable; absent when it is not set. An empty value counts as set.
using EnvironmentLookup = std::function<std::optional<std::string>(const std::string&)>;

/// Variables of this process.
std::optional<std::string> environment_variable(const std::string& name);

/// Reads the launcher's variables. The first of these that is there decides:
///  1. torchrun: TORCHELASTIC_RUN_ID, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT;
///  2. environment only: RANK and WORLD_SIZE, with MASTER_ADDR and MASTER_PORT when the world is
///     larger than 1 (LOCAL_RANK and LOCAL_WORLD_SIZE if known);
///  3. Open MPI's mpirun: OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE;
///  4. srun: SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID; address: first host of SLURM_JOB_NODELIST,
///     port: 20000 + SLURM_JOB_ID mod 40000;
///  5. MPICH and its kin: PMI_RANK, PMI_SIZE (before srun when the two disagree: then mpiexec was
///     started by srun and srun counts nodes);
///  6. nothing: one process.
/// MASTER_ADDR and MASTER_PORT replace the address and port of 3 to 5. mpirun on a single host
/// needs neither: loopback, and a port from a hash of the job's name. Throws Error(kRequest) naming
/// the variable and what to set when variables are missing, malformed or contradict each other, and
/// in the shell of a Slurm job of several tasks outside srun.
Launch read_launch(const EnvironmentLookup& lookup);

/// Hosts of a Slurm list such as "gpu[001-003,7],login1", in order.
/// Throws Error(kRequest) for a malformed list.
std::vector<std::string> expand_slurm_hosts(std::string_view list);

}  // namespace ashlar

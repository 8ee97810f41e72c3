#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "train/dist/cluster.h"

// A run to be started by launchers: rank_program STEPS [TIMEOUT_MS HEARTBEAT_MS]. Every step sums
// the ranks plus one. Prints what it found; an error goes to stderr with status 1.

namespace ashlar {
namespace {

void run(Cluster& cluster, int64_t steps) {
  const int64_t me = cluster.launch().rank, world = cluster.launch().world;
  for (int64_t step = 1; step <= steps; ++step) {
    cluster.phase(fmt::format("step {}: backward", step));
    std::vector<float> data(5000, static_cast<float>(me + 1));
    cluster.world().all_reduce(data.data(), 5000, DType::kF32, ReduceOp::kSum)->wait();
    const auto sum = static_cast<float>(world * (world + 1) / 2);
    for (const float x : data) {
      require(x == sum, ErrorCode::kInternal, "step {}: the sum is {}, not {}", step, x, sum);
    }
    usleep(1000);
  }
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  using namespace ashlar;
  std::unique_ptr<Cluster> cluster;
  try {
    require(argc == 2 || argc == 4, ErrorCode::kRequest,
            "usage: rank_program STEPS [TIMEOUT_MS HEARTBEAT_MS]");
    ClusterOptions options;
    if (argc == 4) {
      options.timeout = std::chrono::milliseconds(std::atoll(argv[2]));
      options.heartbeat = std::chrono::milliseconds(std::atoll(argv[3]));
    }
    cluster = Cluster::join(read_launch(environment_variable), options);
    run(*cluster, std::atoll(argv[1]));
    const Launch& launch = cluster->launch();
    const std::string line =
        fmt::format("rank {} of {} on host {} by {}: done\n", launch.rank, launch.world,
                    cluster->hosts()[static_cast<size_t>(launch.rank)], launch.launcher);
    cluster->leave();
    std::fputs(line.c_str(), stdout);
    return 0;
  } catch (const std::exception& error) {
    if (cluster) cluster->abort(error.what());
    std::fprintf(stderr, "error: %s\n", error.what());
    std::fflush(stderr);
    _exit(1);
  }
}

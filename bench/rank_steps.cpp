#include "bench/rank_steps.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "bench/train_shapes.h"
#include "core/base/cpu.h"
#include "core/base/error.h"
#include "core/comm/simulated.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/shards/batch_source.h"
#include "tests/support/free_port.h"
#include "train/dist/cluster.h"
#include "train/memory_use.h"
#include "train/monitor/trace.h"
#include "train/run_plan.h"
#include "train/trainer.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kBatch = 8, kContext = 512;        // of a Shape
constexpr int64_t kTableBatch = 8, kTableMicro = 2;  // the same activations on any ranks

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TrainConfig config_of(const RankOptions& o, int64_t ranks, int64_t micro_batch, int64_t batch) {
  for (const Shape& shape : shapes()) {
    if (shape.name != o.shape) continue;
    const int cores = cpu_features().cores;
    const int threads =
        o.threads > 0 ? o.threads
                      : std::max(1, cores / static_cast<int>(std::min<int64_t>(ranks, cores)));
    TrainConfig config = train_config(shape, o.precision, threads, DeviceKind::kCpu);
    config.distributed.zero = o.zero;
    config.distributed.reduce = o.reduce == "bf16"      ? Reduction::kBf16
                                : o.reduce == "ordered" ? Reduction::kOrdered
                                                        : Reduction::kFp32;
    config.micro_batch = micro_batch;
    config.batch_size = batch;
    return config;
  }
  fail(ErrorCode::kRequest, "--shape {}: no such shape", o.shape);
}

/// Per step, medians of a round; of one rank.
struct Round {
  double step = 0, data = 0, waiting = 0;  // s
};

Round time_round(Trainer& trainer, const SampleSource& source, int64_t steps) {
  std::vector<double> step, data, waiting;
  for (int64_t i = 0; i < steps; ++i) {
    const auto begin = Clock::now();
    const StepResult r = trainer.step(source);
    step.push_back(seconds_since(begin));
    data.push_back(r.data_seconds);
    waiting.push_back(r.comm_seconds);
  }
  return {median(step), median(data), median(waiting)};
}

double planned_bytes(const TrainConfig& config, int64_t ranks) {
  return training_memory(config.model, run_shape(config, config.precision == Precision::kBf16),
                         ranks)
      .tensors();
}

// Peak of one rank, and with `timed` its steps as they are and without overlap.
Node measure(const TrainConfig& config, Communicator& world, int64_t steps, bool timed) {
  count_memory();
  const RandomShards shards({"", "", config.batch_size, config.context, config.model.vocab_size});
  const ShardSet data(shards.folder());
  const BatchSource source(data, config.context, kSeed);
  Trainer trainer(config, *data.eos_id(), world);
  trainer.step(source);
  if (!timed) {
    trainer.step(source);
    return Node::Map{{"peak_bytes", static_cast<double>(memory_use().peak)},
                     {"planned_bytes", planned_bytes(config, world.size())}};
  }
  const Round beside = time_round(trainer, source, steps);
  trainer.overlap_communication(false);
  trainer.step(source);
  const Round apart = time_round(trainer, source, steps);
  return Node::Map{{"step", beside.step},
                   {"data", beside.data},
                   {"waiting", beside.waiting},
                   {"step_apart", apart.step},
                   {"waiting_apart", apart.waiting}};
}

// Processes
// ----------------------------------------------------------------------------------------

// What a started process does.
void run_rank(const RankOptions& o) {
  const Launch launch = read_launch(environment_variable);
  ClusterOptions options;
  options.timeout = std::chrono::seconds(120);
  options.fingerprint = "bench";
  const auto cluster = Cluster::join(launch, options);
  const bool table = !o.table.empty();
  const TrainConfig config =
      config_of(o, launch.world, table ? kTableMicro : std::max<int64_t>(1, kBatch / launch.world),
                table ? kTableBatch : std::max(kBatch, launch.world));
  const Node result = measure(config, cluster->world(), o.steps, !table);
  write_file_atomically(fmt::format("{}.{}", o.result, launch.rank), write_json(result));
  cluster->leave();
}

void start_rank(std::vector<std::string> arguments, int64_t rank, int64_t ranks, int64_t port) {
  const std::pair<const char*, int64_t> variables[] = {{"RANK", rank},
                                                       {"WORLD_SIZE", ranks},
                                                       {"LOCAL_RANK", rank},
                                                       {"LOCAL_WORLD_SIZE", ranks},
                                                       {"MASTER_PORT", port}};
  for (const auto& [name, value] : variables) setenv(name, std::to_string(value).c_str(), 1);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody else would end a rank whose bench was killed
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  arguments.insert(arguments.begin(), "bench_train_step");
  std::vector<char*> raw;
  for (std::string& a : arguments) raw.push_back(a.data());
  raw.push_back(nullptr);
  execv("/proc/self/exe", raw.data());
  _exit(127);
}

/// By rank.
std::vector<Node> run_processes(int64_t ranks, std::vector<std::string> arguments) {
  const fs::path result =
      fs::temp_directory_path() / fmt::format("ashlar-ranks-{}", static_cast<int>(getpid()));
  arguments.insert(arguments.end(), {"--result", result.string()});
  const int64_t port = test::free_port();
  std::vector<pid_t> children;
  for (int64_t r = 0; r < ranks; ++r) {
    const pid_t child = fork();
    require(child >= 0, ErrorCode::kIo, "fork failed");
    if (child == 0) start_rank(arguments, r, ranks, port);
    children.push_back(child);
  }
  bool ok = true;
  for (const pid_t child : children) {
    int status = 0;
    ok &= waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  require(ok, ErrorCode::kIo, "a rank failed; its reason is above");
  std::vector<Node> out;
  for (int64_t r = 0; r < ranks; ++r) {
    const std::string file = fmt::format("{}.{}", result.string(), r);
    std::stringstream text;
    text << std::ifstream(file).rdbuf();
    out.push_back(parse_json(text.str(), file));
    fs::remove(file);
  }
  return out;
}

// Of the slowest rank.
double worst(const std::vector<Node>& ranks, const char* key) {
  double most = 0;
  for (const Node& r : ranks) most = std::max(most, r.find(key)->as_double());
  return most;
}

void run_step_table(const RankOptions& o, const std::vector<std::string>& arguments) {
  const std::vector<Node> ranks = run_processes(o.ranks, arguments);
  const double waiting = worst(ranks, "waiting"), apart = worst(ranks, "waiting_apart");
  const double step = worst(ranks, "step");
  const double hidden = apart > 0 ? 1 - waiting / apart : 0;
  if (o.json) {
    Node list = Node::list();
    for (const Node& r : ranks) list.push(r);
    std::cout << write_json(Node::Map{{"ranks", std::move(list)}, {"hidden", hidden}}, 2) << "\n";
    return;
  }
  const double tokens = static_cast<double>(std::max(kBatch, o.ranks) * kContext);
  fmt::print(
      "| shape | ranks | ZeRO | sums | ms/step | tokens/s | data ms | waiting ms | waiting without "
      "overlap ms | step without overlap ms | hidden "
      "|\n|---|---|---|---|---|---|---|---|---|---|---|"
      "\n| {} | {} | {} | {} | {:.1f} | {:.0f} | {:.2f} | {:.1f} | {:.1f} | {:.1f} | {:.0f} % |\n",
      o.shape, o.ranks, o.zero, o.reduce, 1e3 * step, tokens / step, 1e3 * worst(ranks, "data"),
      1e3 * waiting, 1e3 * apart, 1e3 * worst(ranks, "step_apart"), 100 * hidden);
}

void run_memory_table(const RankOptions& o) {
  fmt::print(
      "| ranks | ZeRO | peak of tensors, MiB per rank | planned, MiB | planned/peak |\n"
      "|---|---|---|---|---|\n");
  for (const int64_t ranks : {1, 2, 4}) {
    for (int64_t zero = 0; zero <= 3; ++zero) {
      const std::vector<std::string> own = {
          "--table",     "memory",
          "--shape",     o.shape,
          "--threads",   "1",
          "--steps",     "2",
          "--zero",      std::to_string(zero),
          "--reduce",    o.reduce,
          "--precision", o.precision == Precision::kBf16 ? "bf16" : "fp32"};
      const std::vector<Node> all = run_processes(ranks, own);
      const double peak = worst(all, "peak_bytes"), planned = worst(all, "planned_bytes");
      fmt::print("| {} | {} | {:.1f} | {:.1f} | {:.2f} |\n", ranks, zero, peak / (1 << 20),
                 planned / (1 << 20), planned / peak);
      std::fflush(stdout);
    }
  }
}

// Simulation
// ---------------------------------------------------------------------------------------

struct Simulated {
  int64_t ranks = 0;
  SimulatedNetwork network;
};

// "5us" → 5e-6, "50GB/s" → 5e10, "64" → 64.
double quantity(const std::string& key, const std::string& text) {
  static const std::map<std::string, double> kUnits = {{"", 1},       {"s", 1},     {"ms", 1e-3},
                                                       {"us", 1e-6},  {"B/s", 1},   {"kB/s", 1e3},
                                                       {"MB/s", 1e6}, {"GB/s", 1e9}};
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const auto unit = kUnits.find(std::string(end, text.data() + text.size()));
  require(error == std::errc() && unit != kUnits.end() && value >= 0, ErrorCode::kRequest,
          "--simulate: {}={} is no number with s, ms, us, B/s, kB/s, MB/s or GB/s", key, text);
  return value * unit->second;
}

Simulated read_simulated(const std::string& text) {
  std::map<std::string, double> values = {{"ranks", 0},           {"latency", -1},
                                          {"bandwidth", -1},      {"ranks_per_node", 1},
                                          {"inside_latency", -1}, {"inside_bandwidth", -1}};
  std::stringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals);
    require(equals != std::string::npos && values.contains(key), ErrorCode::kRequest,
            "--simulate: '{}' is not one of ranks, latency, bandwidth, ranks_per_node, "
            "inside_latency, inside_bandwidth with =VALUE",
            item);
    values[key] = quantity(key, item.substr(equals + 1));
  }
  require(values["ranks"] >= 1 && values["latency"] >= 0 && values["bandwidth"] > 0,
          ErrorCode::kRequest, "--simulate: needs ranks, latency and bandwidth");
  Simulated out;
  out.ranks = static_cast<int64_t>(values["ranks"]);
  out.network.between = {values["latency"], values["bandwidth"]};
  out.network.ranks_per_node = static_cast<int64_t>(values["ranks_per_node"]);
  if (values["inside_bandwidth"] > 0) {
    out.network.inside =
        SimulatedLink{std::max(0.0, values["inside_latency"]), values["inside_bandwidth"]};
  }
  return out;
}

// Adds the links to what the Trainer noted.
void write_trace(Tracer& tracer, const SimulatedTimeline& timeline, Clock::time_point zero,
                 double from, const fs::path& path) {
  const auto at = [&](double s) {
    return zero + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
  };
  for (const SimulatedCollective& c : timeline.collectives()) {
    if (c.begun < from) continue;
    const std::string name = fmt::format("{} {} B", c.kind, c.bytes);
    tracer.span(c.inside ? "link inside a node" : "link between nodes", name, at(c.start),
                at(c.end));
    if (c.waited <= 0) continue;
    tracer.span("waiting", name, at(c.end - c.waited), at(c.end));
  }
  tracer.write(path);
}

// The model's estimate for the same network, at the speed at which this machine computed.
StepTime estimate(const TrainConfig& config, const Simulated& s, double compute_seconds) {
  const RunShape run = run_shape(config, config.precision == Precision::kBf16);
  PlanOptions options;
  options.ranks = s.ranks;
  const SimulatedLink inside = s.network.inside.value_or(s.network.between);
  options.between = {s.network.between.latency, s.network.between.bandwidth};
  options.inside = {inside.latency, inside.bandwidth};
  options.ranks_per_node = s.network.ranks_per_node;
  const double flops = 3 * training_flops(config.model, config.context).total() *
                       static_cast<double>(config.micro_batch * config.context);
  options.flops_per_second = flops / compute_seconds;
  return make_plan(config.model, run, options).step;
}

void run_simulation(const RankOptions& o) {
  const Simulated s = read_simulated(o.simulate);
  const TrainConfig config = config_of(o, 1, 1, s.ranks);
  const auto zero = Clock::now();
  const SimulatedClock clock{
      [zero] { return seconds_since(zero); },
      [zero](double time) {
        std::this_thread::sleep_until(zero + std::chrono::duration_cast<Clock::duration>(
                                                 std::chrono::duration<double>(time)));
      }};
  const auto timeline = std::make_shared<SimulatedTimeline>(s.network, clock);
  const auto world = make_simulated_communicator(0, s.ranks, timeline);
  const RandomShards shards({"", "", config.batch_size, config.context, config.model.vocab_size});
  const ShardSet data(shards.folder());
  const BatchSource source(data, config.context, kSeed);
  Trainer trainer(config, *data.eos_id(), *world);
  trainer.step(source);
  const double from = seconds_since(zero), busy = timeline->busy(), hidden = timeline->hidden();
  const size_t collectives = timeline->collectives().size();
  Tracer tracer(0);
  trainer.trace(o.trace.empty() ? nullptr : &tracer);
  for (int64_t i = 0; i < o.steps; ++i) trainer.step(source);
  const auto steps = static_cast<double>(o.steps);
  const double step = (seconds_since(zero) - from) / steps;
  const double communication = (timeline->busy() - busy) / steps;
  const double exposed = communication - (timeline->hidden() - hidden) / steps;
  if (!o.trace.empty()) write_trace(tracer, *timeline, zero, from, o.trace);
  const StepTime plan = estimate(config, s, step - exposed);
  const double share = communication > 0 ? 1 - exposed / communication : 0;
  if (o.json) {
    std::cout << write_json(
                     Node::Map{{"step", step},
                               {"communication", communication},
                               {"exposed", exposed},
                               {"hidden", share},
                               {"collectives_per_step",
                                static_cast<double>(timeline->collectives().size() - collectives) /
                                    steps},
                               {"planned", Node::Map{{"step", plan.total()},
                                                     {"communication", plan.communication},
                                                     {"exposed", plan.exposed}}}},
                     2)
              << "\n";
    return;
  }
  fmt::print(
      "| shape | ranks | ZeRO | | ms/step | communication ms | exposed ms | hidden |\n"
      "|---|---|---|---|---|---|---|---|\n"
      "| {0} | {1} | {2} | simulated | {3:.1f} | {4:.1f} | {5:.1f} | {6:.0f} % |\n"
      "| {0} | {1} | {2} | planned | {7:.1f} | {8:.1f} | {9:.1f} | {10:.0f} % |\n",
      o.shape, s.ranks, o.zero, 1e3 * step, 1e3 * communication, 1e3 * exposed, 100 * share,
      1e3 * plan.total(), 1e3 * plan.communication, 1e3 * plan.exposed,
      plan.communication > 0 ? 100 * (1 - plan.exposed / plan.communication) : 0);
}

}  // namespace

void measure_ranks(const RankOptions& options, const std::vector<std::string>& arguments) {
  if (!options.result.empty()) return run_rank(options);
  if (!options.simulate.empty()) return run_simulation(options);
  if (!options.table.empty()) return run_memory_table(options);
  run_step_table(options, arguments);
}

}  // namespace ashlar

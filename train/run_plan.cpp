#include "train/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>

#include "core/base/error.h"

namespace ashlar {
namespace {

double state_values(OptimizerKind kind) { return kind == OptimizerKind::kAdamW ? 2 : 1; }

using Part = std::pair<const char*, double>;

std::vector<Part> parts_of(const TrainingMemory& m) {
  std::vector<Part> parts = {{"weights", m.weights},
                             {"gradients", m.gradients},
                             {"optimizer state", m.optimizer},
                             {"averaged weights", m.average},
                             {"gathered weights and gradients under way", m.transient},
                             {"copies for products and the head's gradient", m.compute_copies},
                             {"activations", m.activations}};
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.second > b.second; });
  std::erase_if(parts, [](const Part& p) { return p.second <= 0; });
  return parts;
}

}  // namespace

RunShape run_shape(const TrainConfig& config, bool bf16) {
  RunShape run{config.steps, config.context, config.batch_size, config.micro_batch, bf16};
  run.zero = config.distributed.zero;
  run.shard_ranks = run.zero == 0 ? 0 : config.distributed.shard_ranks;
  run.sums = static_cast<SumType>(config.distributed.reduce);
  run.recompute = config.recompute;
  const std::vector<ParameterSpec> trained = trained_parameters(config);
  const auto policies = parameter_policies(config.optimizer, trained);
  double values = 0, all = 0;
  for (size_t i = 0; i < trained.size(); ++i) {
    const auto n = static_cast<double>(trained[i].numel());
    values += n * state_values(policies[i].kind);
    all += n;
  }
  run.optimizer_values = values / all;
  run.gathers_updates = config.optimizer.kind == OptimizerKind::kMuon;
  run.average = config.ema.has_value();
  run.checkpoint_copy = true;
  run.trained_parameters = config.lora ? static_cast<int64_t>(all) : 0;
  return run;
}

std::string memory_text(double bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.4g} {}", bytes, kUnits[unit]);
}

std::string memory_parts_text(const TrainingMemory& memory) {
  std::string out;
  for (const auto& [name, bytes] : parts_of(memory)) {
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", name, memory_text(bytes));
  }
  return out;
}

std::vector<MemoryAdvice> memory_advice(const TrainConfig& config, int64_t ranks) {
  const RunShape now = run_shape(config, config.precision == Precision::kBf16);
  const double planned = training_memory(config.model, now, ranks).tensors();
  std::vector<MemoryAdvice> out;
  const auto offer = [&](std::string change, const RunShape& run) {
    const double saved = planned - training_memory(config.model, run, ranks).tensors();
    if (saved > 0) out.push_back({std::move(change), saved});
  };
  RunShape run = now;
  if (run.micro_batch > 1) {
    run.micro_batch = 1;
    offer(fmt::format("train.micro_batch: 1 instead of {}", now.micro_batch), run);
  }
  run = now;
  run.recompute = {"*"};
  if (now.recompute != run.recompute) offer("train.recompute: all", run);
  for (run = now; ranks > 1 && run.zero < 3;) {
    ++run.zero;
    offer(fmt::format("distributed.zero: {} instead of {}", run.zero, now.zero), run);
  }
  run = now;
  if (!run.bf16) {
    run.bf16 = true;
    offer("train.precision: bf16", run);
  }
  run = now;
  const int64_t block = config.model.block_length();
  run.context = now.context / 2 / block * block;
  if (run.context > 0) {
    offer(fmt::format("train.context: {} instead of {}", run.context, now.context), run);
  }
  run = now;
  if (run.average) {
    run.average = false;
    offer("no ema", run);
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const MemoryAdvice& a, const MemoryAdvice& b) { return a.saved > b.saved; });
  return out;
}

std::string explain_out_of_memory(const TrainConfig& config, int64_t ranks, int64_t used,
                                  const std::string& reason) {
  const TrainingMemory plan =
      training_memory(config.model, run_shape(config, config.precision == Precision::kBf16), ranks);
  const auto [part, bytes] = parts_of(plan).front();
  std::string out = fmt::format(
      "out of memory: {}. Planned {} of tensors on each rank, used {} so far; the largest part are "
      "{} with {}",
      reason, memory_text(plan.tensors()), memory_text(static_cast<double>(used)), part,
      memory_text(bytes));
  std::string help;
  for (const MemoryAdvice& advice : memory_advice(config, ranks)) {
    help += fmt::format("{}{} (saves about {})", help.empty() ? "" : "; ", advice.change,
                        memory_text(advice.saved));
  }
  if (help.empty()) help = "a smaller model, or more memory";
  return out + ". What would help: " + help;
}

int64_t read_bytes(const Node& node, const std::string& key) {
  if (node.is_int()) {
    if (node.as_int() < 0) fail_at(node, key, "must not be negative");
    return node.as_int();
  }
  struct Unit {
    const char* name;
    double bytes;
  };
  constexpr double k = 1000, ki = 1024;
  static constexpr Unit kUnits[] = {{"B", 1},
                                    {"kB", k},
                                    {"MB", k * k},
                                    {"GB", k * k * k},
                                    {"TB", k * k * k * k},
                                    {"KiB", ki},
                                    {"MiB", ki * ki},
                                    {"GiB", ki * ki * ki},
                                    {"TiB", ki * ki * ki * ki}};
  const std::string& text = node.as_string();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  for (const Unit& u : kUnits) {
    const double bytes = value * u.bytes;
    if (error != std::errc() || unit != u.name || !(value >= 0) || bytes > 0x1p62) continue;
    return static_cast<int64_t>(std::floor(bytes));
  }
  fail_at(node, key, fmt::format("'{}' is no size in memory; write bytes or 512MB, 4GiB, …", text));
}

}  // namespace ashlar

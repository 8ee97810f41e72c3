#include "models/spec/plan.h"

#include <fmt/format.h>

#include "core/base/checked.h"
#include "models/spec/parameters.h"
#include "models/spec/step_time.h"
#include "models/spec/training_pieces.h"

namespace ashlar {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

// NVIDIA's data sheets (H200, H100 SXM5, A100 80 GB SXM4): dense bf16 tensor cores; fp32 outside
// them. The cpu is two cores at 3 GHz with 32 fp32 and 64 bf16 operations per cycle each (two
// 256-bit FMA units, AVX-512 BF16 dot products). Utilisations are round figures that well-tuned
// training reaches, not measurements.
// Links: NVLink 900 GB/s (A100: 600) both ways together, so half of it each way. Between nodes an
// InfiniBand port per GPU, NDR 400 Gbit/s (A100: HDR 200), eight of them side by side, so that
// eight rings share the work of one. Latencies are round figures of a step of a ring. The cpu:
// shared memory, and Ethernet of 10 Gbit/s.
constexpr Device kDevices[] = {
    {"h200",
     "NVIDIA H200 SXM, 141 GB",
     989e12,
     67e12,
     0.40,
     141e9,
     {3e-6, 450e9},
     {8e-6, 400e9},
     8},
    {"h100", "NVIDIA H100 SXM, 80 GB", 989e12, 67e12, 0.40, 80e9, {3e-6, 450e9}, {8e-6, 400e9}, 8},
    {"a100",
     "NVIDIA A100 SXM, 80 GB",
     312e12,
     19.5e12,
     0.45,
     80e9,
     {3e-6, 300e9},
     {8e-6, 200e9},
     8},
    {"cpu", "two cores at 3 GHz", 384e9, 192e9, 0.40, 0, {20e-6, 4e9}, {50e-6, 1.25e9}, 1},
};

}  // namespace

int64_t RunShape::tokens_per_step() const {
  int64_t tokens = 0;
  require(!__builtin_mul_overflow(batch_size, context, &tokens), ErrorCode::kRequest,
          "batch_size × context = {} × {} overflows", batch_size, context);
  return tokens;
}

int64_t RunShape::tokens() const {
  int64_t tokens = 0;
  require(!__builtin_mul_overflow(steps, tokens_per_step(), &tokens), ErrorCode::kRequest,
          "steps × batch_size × context = {} × {} × {} overflows", steps, batch_size, context);
  return tokens;
}

std::span<const Device> devices() { return kDevices; }

const Device& find_device(const std::string& name) {
  std::string names;
  for (const Device& device : kDevices) {
    if (name == device.name) return device;
    names += (names.empty() ? "" : ", ") + std::string(device.name);
  }
  fail(ErrorCode::kRequest, "device '{}' is not one of {}", name, names);
}

double activation_bytes(const ModelSpec& spec, int64_t context, double bytes_per_element) {
  double elements = 4.0 * real(spec.token_stack().d_model);
  for (const StackSpec& stack : spec.stacks) {
    double sum = 0;
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      sum += layer_elements(spec, stack, static_cast<int64_t>(l));
    }
    elements += sum * positions_per_token(spec, stack);
  }
  return elements * real(context) * bytes_per_element;
}

Plan make_plan(const ModelSpec& spec, const RunShape& run, const PlanOptions& options) {
  require(options.ranks >= 1, ErrorCode::kRequest, "ranks: {} is below 1", options.ranks);
  Plan plan{spec, run, options, parameter_parts(spec), {}, {}, {}, {}, {}, 0, 0, 0, {}, 0};
  plan.training = training_flops(spec, run.context);
  plan.prefill = prefill_flops(spec, spec.context_length);
  plan.decode = decode_flops(spec, spec.context_length);
  plan.kv = kv_plan(spec, spec.context_length, options.kv_bytes_per_element);
  plan.memory = training_memory(spec, run, options.ranks);
  plan.flops_per_token = 3 * plan.training.total();
  plan.run_flops = plan.flops_per_token * real(run.tokens());
  const int64_t micro_batches = ceil_div(run.batch_size, run.micro_batch);
  plan.micro_batches_per_rank = ceil_div(micro_batches, options.ranks);
  plan.step = step_time(spec, run, options);
  plan.seconds = plan.step.total() * real(run.steps);
  return plan;
}

}  // namespace ashlar

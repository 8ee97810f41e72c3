#include "models/spec/plan.h"

#include <fmt/format.h>

#include "core/base/checked.h"
#include "models/spec/attention_kind.h"
#include "models/spec/parameters.h"

namespace ashlar {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

// NVIDIA's data sheets (H200, H100 SXM5, A100 80 GB SXM4): dense bf16 tensor cores; fp32 outside
// them. The cpu is two cores at 3 GHz with 32 fp32 and 64 bf16 operations per cycle each (two
// 256-bit FMA units, AVX-512 BF16 dot products). Utilisations are round figures that well-tuned
// training reaches, not measurements.
constexpr Device kDevices[] = {
    {"h200", "NVIDIA H200 SXM, 141 GB", 989e12, 67e12, 0.40, 141e9},
    {"h100", "NVIDIA H100 SXM, 80 GB", 989e12, 67e12, 0.40, 80e9},
    {"a100", "NVIDIA A100 SXM, 80 GB", 312e12, 19.5e12, 0.45, 80e9},
    {"cpu", "two cores at 3 GHz", 384e9, 192e9, 0.40, 0},
};

double layer_elements(const ModelSpec& spec, const StackSpec& stack, int64_t index) {
  const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
  const AttentionSpec& a = layer.attention;
  const bool owner = layer.kv_owner == index;
  int64_t sum = (layer.residual == ResidualKind::kParallel ? 3 : 4) * stack.d_model;
  if (owner && a.separate_kv_norm) sum += stack.d_model;
  sum += attention_kind(a.kind).saved_elements(a, owner);
  sum += (layer.ffn.gated() ? 3 : 2) * layer.ffn.d_ff;
  double total = real(sum);
  if (spec.has_cross_attention(stack)) {
    const BlockSpec& b = *spec.block;
    total += real(2 * stack.d_model + 2 * a.heads * a.head_dim) +
             real(2 * a.kv_heads * a.head_dim * b.context_rows()) / real(b.local_positions());
  }
  return total;
}

// Positions of a stack per text token.
double positions_per_token(const ModelSpec& spec, const StackSpec& stack) {
  if (!spec.block) return 1;
  const BlockSpec& b = *spec.block;
  const int64_t positions = stack.role == StackRole::kGlobal    ? 1
                            : stack.role == StackRole::kEncoder ? b.cls_tokens + b.length
                                                                : b.local_positions();
  return real(positions) / real(b.length);
}

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

double TrainingMemory::total() const {
  return weights + gradients + optimizer + compute_copies + activations;
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

TrainingMemory training_memory(const ModelSpec& spec, const RunShape& run) {
  const double n = real(parameter_count(spec));
  TrainingMemory out;
  out.weights = 4 * n;
  out.gradients = 4 * n;
  out.optimizer = 8 * n;
  out.compute_copies =
      (run.bf16 ? 2 * n : 0) + 4.0 * real(spec.vocab_size) * real(spec.token_stack().d_model);
  out.activations = activation_bytes(spec, run.context, run.bf16 ? 2 : 4) * real(run.micro_batch);
  return out;
}

Plan make_plan(const ModelSpec& spec, const RunShape& run, const PlanOptions& options) {
  require(options.ranks >= 1, ErrorCode::kRequest, "ranks: {} is below 1", options.ranks);
  const Device& device = find_device(options.device);
  Plan plan{spec, run, options, parameter_parts(spec), {}, {}, {}, {}, {}, 0, 0, 0, 0};
  plan.training = training_flops(spec, run.context);
  plan.prefill = prefill_flops(spec, spec.context_length);
  plan.decode = decode_flops(spec, spec.context_length);
  plan.kv = kv_plan(spec, spec.context_length, options.kv_bytes_per_element);
  plan.memory = training_memory(spec, run);
  plan.flops_per_token = 3 * plan.training.total();
  plan.run_flops = plan.flops_per_token * real(run.tokens());
  const int64_t micro_batches = ceil_div(run.batch_size, run.micro_batch);
  plan.micro_batches_per_rank = ceil_div(micro_batches, options.ranks);
  const double busiest =
      real(std::min(plan.micro_batches_per_rank * run.micro_batch, run.batch_size)) /
      real(run.batch_size);
  const double peak = run.bf16 ? device.bf16_peak : device.fp32_peak;
  plan.seconds = plan.run_flops * busiest / (peak * device.utilisation);
  return plan;
}

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "models/spec/cost.h"

// What a training run is expected to need. Memory and time are estimates; the formulas are stated
// with each function.

namespace ashlar {

/// The part of a training configuration that decides its cost.
struct RunShape {
  int64_t steps = 0;
  int64_t context = 0;      ///< tokens per sample
  int64_t batch_size = 0;   ///< samples per step
  int64_t micro_batch = 0;  ///< samples per pass
  bool bf16 = false;        ///< products in bf16 beside fp32 master weights

  // Throw Error(kRequest) on overflow.
  int64_t tokens_per_step() const;
  int64_t tokens() const;
};

/// A device as its data sheet describes it. Peaks are dense matrix products, without sparsity.
struct Device {
  const char* name;
  const char* description;
  double bf16_peak;     ///< FLOP/s
  double fp32_peak;     ///< FLOP/s
  double utilisation;   ///< assumed share of the peak that training reaches
  double memory_bytes;  ///< 0: not known
};
/// h200, h100, a100 (SXM boards) and cpu (two cores).
std::span<const Device> devices();
/// Throws Error(kRequest) with the known names.
const Device& find_device(const std::string& name);

/// Peak bytes on one rank while training (an estimate). Data-parallel ranks hold whole copies:
///   weights 4N + gradients 4N + AdamW moments 8N, fp32, N parameters
///   + bf16: 2N for the copies of the weights that products read
///   + head: gradient 4·V·d that the loss makes before the backward pass
///   + activations: e bytes (4, or 2 in bf16) × micro_batch·context tokens × Σ over layers of
///     positions per token × what the backward pass keeps of a position:
///       residual and normalised inputs 4d (parallel residual 3d), +d for a K/V norm of its own
///       Q heads·query_dim and attention's output heads·value_dim, K and V where a layer owns them
///       (QK-norm: Q and K twice; latent: the latent twice and the expanded keys and values)
///       FFN 3·d_ff (without a gate 2·d_ff)
///       cross-attention 2d, Q, output, and K/V of the context rows
///     + 4d of the token stack for final norm and loss.
/// Logits and S×S scores are never whole and are not counted, nor are allocator and libraries.
struct TrainingMemory {
  double weights = 0;
  double gradients = 0;
  double optimizer = 0;
  double compute_copies = 0;  ///< bf16 copies and the head's gradient
  double activations = 0;
  double total() const;
};
TrainingMemory training_memory(const ModelSpec& spec, const RunShape& run);
/// The activations' part of it for one sample of `context` tokens.
double activation_bytes(const ModelSpec& spec, int64_t context, double bytes_per_element);

struct PlanOptions {
  int64_t ranks = 1;
  double kv_bytes_per_element = 2;
  std::string device = "cpu";
};

struct Plan {
  ModelSpec spec;
  RunShape run;
  PlanOptions options;
  ParameterParts parameters;
  Flops training, prefill, decode;  ///< training: forward
  KvPlan kv;
  TrainingMemory memory;
  double flops_per_token = 0;  ///< training: forward and backward, 3 × forward
  double run_flops = 0;
  int64_t micro_batches_per_rank = 0;  ///< of the busiest rank, each step
  /// steps × micro-batches of the busiest rank × their FLOPs / (peak × utilisation). An estimate
  /// that knows neither communication nor data.
  double seconds = 0;
};
/// FLOPs of training at run.context; prefill, decode and KV bytes at spec.context_length.
Plan make_plan(const ModelSpec& spec, const RunShape& run, const PlanOptions& options);

}  // namespace ashlar

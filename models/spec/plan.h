#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/spec/cost.h"

// What a training run is expected to need. Memory and time are estimates; the formulas are stated
// with each function.

namespace ashlar {

/// In what gradients are summed over ranks.
enum class SumType { kFp32, kBf16, kOrdered };

/// The part of a training configuration that decides its cost.
struct RunShape {
  int64_t steps = 0;
  int64_t context = 0;      ///< tokens per sample
  int64_t batch_size = 0;   ///< samples per step
  int64_t micro_batch = 0;  ///< samples per pass
  bool bf16 = false;        ///< products in bf16 beside fp32 master weights
  // How ranks share the work and what else the run keeps; see TrainConfig.
  int64_t zero = 0;
  int64_t shard_ranks = 0;  ///< 0: all
  SumType sums = SumType::kFp32;
  std::vector<std::string> recompute = {};
  double optimizer_values = 2;     ///< fp32 values of state per trained parameter, on average
  bool gathers_updates = false;    ///< Muon: whole updates of a unit, one at a time
  bool average = false;            ///< EMA of the weights
  bool checkpoint_copy = false;    ///< checkpoints are written from a copy
  int64_t trained_parameters = 0;  ///< 0: all of the model's; otherwise low-rank adapters'

  // Throw Error(kRequest) on overflow.
  int64_t tokens_per_step() const;
  int64_t tokens() const;
};

struct Link {
  double latency;    ///< s per step of a ring
  double bandwidth;  ///< bytes/s that one rank sends, and receives at the same time
};

/// A device as its data sheet describes it. Peaks are dense matrix products, without sparsity.
struct Device {
  const char* name;
  const char* description;
  double bf16_peak;      ///< FLOP/s
  double fp32_peak;      ///< FLOP/s
  double utilisation;    ///< assumed share of the peak that training reaches
  double memory_bytes;   ///< 0: not known
  Link inside, between;  ///< a node's ranks; nodes
  int64_t ranks_per_node;
};
/// h200, h100, a100 (SXM boards) and cpu (two cores).
std::span<const Device> devices();
/// Throws Error(kRequest) with the known names.
const Device& find_device(const std::string& name);

/// Peak bytes on one rank while training (an estimate): what is kept, and what comes and goes at
/// the worst moment of a step. N parameters, padded to 4096·s elements per stage; s ranks share a
/// copy (s = 1 at ZeRO 0), n ranks in all; M of N are in linear maps, R = N − M.
///   weights      fp32: 4N at ZeRO 0 to 2, 4N/s at 3
///                bf16: 4N at 0; 4N/s + 2M + 4R·(1 − 1/s) at 1 and 2; 4N/s at 3
///   gradients    4N at 0 and 1 (ordered: 4N/s), 4N/s at 2 and 3
///   optimizer    4N/s · values of state: AdamW 2, Lion 1, Muon 1 (of its matrices)
///   average      4N/s with EMA
///   transient    the largest, over the moments of a step, of what lives beside activations:
///     gathered   ZeRO 3: the stage that runs and the next one: whole copies
///     gradients  of the stage that runs, in its type; units under way to other ranks (all of them
///                at 0 and 1, four at 2 and 3), in fp32 and in bf16 where they are sent so;
///                ordered: n copies of four units
///     results    after the last pass: ZeRO 1 sums 4N/s, bf16 sums 4N/s and what was sent
///     update     Muon: a unit, its slice and six copies of its largest matrix
///   compute_copies   bf16 at ZeRO 0: 2M that products read; the head: gradient 4·V·d that the loss
///                makes before the backward pass (bf16: 2·V·d twice more), one chunk of logits
///   activations  e bytes (4, or 2 in bf16) × micro_batch·context tokens × Σ over layers of
///                positions per token × what the backward pass reads of a position:
///       residual and normalised inputs 4d (parallel residual 3d), +d for a K/V norm of its own
///       Q heads·query_dim and attention's output heads·value_dim, K and V where a layer owns them
///       (QK-norm: Q and K twice; latent: the latent twice and the expanded keys and values)
///       FFN 3·d_ff (without a gate 2·d_ff)
///       cross-attention 2d, Q, output, and K/V of the context rows
///     + 4d of the token stack for final norm and loss. A recomputed layer keeps its input d and
///     the K/V it owns; all of the largest recomputed one lives while it runs backward.
///   checkpoint   a copy of weights, average and state, (4N + optimizer)/n, outside tensors
/// S×S scores are never whole. Allocator, libraries, batches and buffers of Gloo are not counted.
struct TrainingMemory {
  double weights = 0;
  double gradients = 0;
  double optimizer = 0;
  double average = 0;
  double transient = 0;       ///< beside activations at the worst moment
  double compute_copies = 0;  ///< bf16 copies and the head's work
  double activations = 0;     ///< at the worst moment
  double checkpoint = 0;
  /// Of tensors, at the worst moment of a step.
  double tensors() const;
  double total() const;
};
TrainingMemory training_memory(const ModelSpec& spec, const RunShape& run, int64_t ranks = 1);
/// Ranks that share one copy. Throws Error(kRequest) when `ranks` cannot be divided so.
int64_t shards_of(const RunShape& run, int64_t ranks);
/// The activations' part of it for one sample of `context` tokens.
double activation_bytes(const ModelSpec& spec, int64_t context, double bytes_per_element);

struct PlanOptions {
  int64_t ranks = 1;
  double kv_bytes_per_element = 2;
  std::string device = "cpu";
  // Instead of the device's own; 0: as it has.
  Link inside = {0, 0}, between = {0, 0};
  int64_t ranks_per_node = 0;
  double flops_per_second = 0;  ///< of one rank, instead of peak × utilisation
};

/// Where a step's time goes on the busiest rank, from a model: see models/spec/step_time.h.
struct StepTime {
  double compute = 0;           ///< seconds
  double communication = 0;     ///< of all collectives one after another
  double exposed = 0;           ///< of it, what compute waits for
  double exposed_forward = 0;   ///< of that: gathers in forward passes,
  double exposed_backward = 0;  ///< gathers and sums in backward passes,
  double exposed_end = 0;       ///< and sums still under way when the last pass is through
  double bytes_sent = 0;        ///< by this rank
  double total() const { return compute + exposed; }
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
  StepTime step;                       ///< estimate
  double seconds = 0;                  ///< steps × step.total(); knows nothing of data
};
/// FLOPs of training at run.context; prefill, decode and KV bytes at spec.context_length.
Plan make_plan(const ModelSpec& spec, const RunShape& run, const PlanOptions& options);

}  // namespace ashlar

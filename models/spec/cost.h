#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/spec.h"

// What a model costs, from its description alone: parameters by part, floating-point operations and
// KV-cache bytes. Everything here is exact arithmetic over `parameters` and `kv_groups`; estimates
// are in plan.h.

namespace ashlar {

/// Parameters by part. token_tables + embedder + Σ stacks + final_norms + expansion + head = total.
struct ParameterParts {
  struct Stack {
    std::string name;
    int64_t layers = 0;  ///< everything inside the layers, their norms included
  };
  int64_t token_tables = 0;  ///< lookup tables with a row per token of the vocabulary
  int64_t embedder = 0;      ///< Block Transformer: projection, learned positions, CLS tokens
  std::vector<Stack> stacks;
  int64_t final_norms = 0;
  int64_t expansion = 0;  ///< Block Transformer: block state to context rows
  int64_t head = 0;       ///< 0 when tied
  int64_t total = 0;
  int64_t norms = 0;  ///< gains and shifts of all norms, those inside layers too
  int64_t body = 0;   ///< as body_parameter_count

  /// Everything inside layers: what the papers call non-embedding parameters.
  int64_t in_layers() const;
};
ParameterParts parameter_parts(const ModelSpec& spec);

/// Floating-point operations of one text token in a forward pass: two per multiply-accumulate of
/// matrix products; softmax, norms, activations and lookups are not counted.
struct FlopPart {
  std::string name;      ///< "embedder", a stack's name, "expansion" or "head"
  double products = 0;   ///< with weights
  double attention = 0;  ///< scores and mixing of values
};
struct Flops {
  std::vector<FlopPart> parts;
  double products() const;
  double attention() const;
  double total() const { return products() + attention(); }
  /// The part called `name`, or one of zeros.
  FlopPart part(const std::string& name) const;
};

/// How many cached rows a query is counted to see.
enum class Reach {
  kMean,  ///< the mean over a causal sequence: (n + 1)/2 without a window
  kAll,   ///< the whole sequence, as counts that ignore the causal mask do
};
/// Forward pass of training over samples of `context` tokens; with the backward pass three times
/// as much. A Block Transformer's block of EOS in front of each sample is left out.
Flops training_flops(const ModelSpec& spec, int64_t context, Reach reach = Reach::kMean);
/// Reading a prompt of `context` tokens: without the head; a Block Transformer runs embedder and
/// block decoder only.
Flops prefill_flops(const ModelSpec& spec, int64_t context);
/// One generated token behind `context` tokens, averaged over a block. Latent attention is counted
/// in the form that reads the latent cache itself: queries and outputs go through the
/// up-projections in every reading layer (arXiv 2405.04434 §2.1.2).
Flops decode_flops(const ModelSpec& spec, int64_t context);

/// One KvGroup's cache of one sequence.
struct KvCost {
  KvGroup group;
  double bytes_per_entry = 0;
  double bytes_per_token = 0;  ///< of text; 0 for lifetime "block"
  int64_t rows = 0;            ///< most rows ever cached: bounded by context, window or block
  double bytes = 0;            ///< of these rows
  /// Bytes all readers together read for one generated token with the cache at `rows`, averaged
  /// over a block. Sharing layers saves memory but not reads.
  double reads_per_token = 0;
};
struct KvPlan {
  std::vector<KvCost> groups;
  double bytes_per_token = 0;   ///< lifetime "sequence", windows not yet full
  double bytes_at_context = 0;  ///< lifetime "sequence", windows bounded
  double local_bytes = 0;       ///< lifetime "block": constant per sequence
  double reads_per_token = 0;   ///< lifetime "sequence", at full context
  double local_reads_per_token = 0;
  double multi_head_bytes_per_token = 0;  ///< every layer caching all its heads for every token
};
KvPlan kv_plan(const ModelSpec& spec, int64_t context, double bytes_per_element);

}  // namespace ashlar

#include "models/spec/cost.h"

#include <algorithm>

#include "core/base/checked.h"
#include "models/spec/attention_kind.h"
#include "models/spec/parameters.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

double real(int64_t value) { return static_cast<double>(value); }

enum class Pass { kTraining, kPrefill, kDecode };

// Positions a stack runs over in one sequence, and how many of them one text token costs.
struct Run {
  int64_t positions = 0;
  double per_token = 1;
  bool causal = true;
  bool grows = true;  // with the text, not with the block
};

Run run_of(const ModelSpec& spec, const StackSpec& stack, int64_t context) {
  if (!spec.block) return {context, 1, true, true};
  const BlockSpec& b = *spec.block;
  const double blocks = 1.0 / real(b.length);
  switch (stack.role) {
    case StackRole::kGlobal:
      return {ceil_div(context, b.length), blocks, true, true};
    case StackRole::kEncoder:
      return {b.cls_tokens + b.length, blocks * real(b.cls_tokens + b.length), false, false};
    default:
      return {b.local_positions(), blocks * real(b.local_positions()), true, false};
  }
}

// Rows the query of position i (0-based) sees under a window.
int64_t visible(int64_t i, int64_t window) { return window == 0 ? i + 1 : std::min(i + 1, window); }

// Mean of visible(i) over i < n.
double mean_visible(int64_t n, int64_t window) {
  const int64_t full = window == 0 ? n : std::min(n, window);
  return (0.5 * real(full) * real(full + 1) + real(n - full) * real(full)) / real(n);
}

class FlopCounter {
 public:
  FlopCounter(const ModelSpec& spec, int64_t context, Pass pass, Reach reach)
      : spec_(spec), context_(context), pass_(pass), reach_(reach) {}

  Flops count() {
    for (const ParameterSpec& p : parameters(spec_)) {
      if (p.is_linear()) add(p);
    }
    if (spec_.tied_head && pass_ != Pass::kPrefill) {
      part("head").products += 2.0 * real(spec_.vocab_size) * real(spec_.token_stack().d_model);
    }
    for (const StackSpec& stack : spec_.stacks) {
      if (!skipped(stack)) part(stack_name(stack.role)).attention += attention(stack);
    }
    return std::move(out_);
  }

 private:
  // The token decoder does not see the prompt.
  bool skipped(const StackSpec& stack) const {
    return pass_ == Pass::kPrefill && stack.role == StackRole::kLocal;
  }

  FlopPart& part(const std::string& name) {
    for (FlopPart& p : out_.parts) {
      if (p.name == name) return p;
    }
    out_.parts.push_back({name, 0, 0});
    return out_.parts.back();
  }

  bool absorbed(Role role) const {
    return pass_ == Pass::kDecode && (role == Role::kKeyUp || role == Role::kValueUp);
  }

  void add(const ParameterSpec& p) {
    const StackSpec& stack = spec_.stacks[static_cast<size_t>(p.stack)];
    const double once = 2.0 * real(p.numel()), block = 1.0 / real(spec_.block_length());
    if (p.role == Role::kHead) {
      if (pass_ != Pass::kPrefill) part("head").products += once;
    } else if (p.role == Role::kProjection) {
      part("embedder").products += once * block;
    } else if (p.role == Role::kExpansion) {
      if (pass_ != Pass::kPrefill) part("expansion").products += once * block;
    } else if (!skipped(stack)) {
      part(stack_name(stack.role)).products += once * times(p, stack);
    }
  }

  // How often one text token multiplies with a matrix inside a layer.
  double times(const ParameterSpec& p, const StackSpec& stack) const {
    const double positions = run_of(spec_, stack, context_).per_token;
    if (p.role == Role::kCrossKey || p.role == Role::kCrossValue) {
      return real(spec_.block->context_rows()) / real(spec_.block->length);
    }
    if (!absorbed(p.role)) return positions;
    int64_t readers = 0;
    for (const LayerSpec& layer : stack.layers) readers += layer.kv_owner == p.layer;
    return positions * real(readers);
  }

  double seen(const Run& run, int64_t window) const {
    const bool all = reach_ == Reach::kAll || !run.causal || (pass_ == Pass::kDecode && run.grows);
    return all ? real(visible(run.positions - 1, window)) : mean_visible(run.positions, window);
  }

  double attention(const StackSpec& stack) const {
    const Run run = run_of(spec_, stack, context_);
    double total = 0;
    for (const LayerSpec& layer : stack.layers) {
      const AttentionSpec& a = layer.attention;
      const int64_t width = pass_ == Pass::kDecode ? attention_kind(a.kind).decode_width(a)
                                                   : a.query_dim() + a.value_dim();
      total += 2.0 * real(a.heads * width) * seen(run, a.window) * run.per_token;
      if (spec_.has_cross_attention(stack)) {
        total += 4.0 * real(a.heads * a.head_dim * spec_.block->context_rows()) * run.per_token;
      }
    }
    return total;
  }

  const ModelSpec& spec_;
  int64_t context_;
  Pass pass_;
  Reach reach_;
  Flops out_;
};

// Rows read per generated token by one layer, averaged over a block, with the cache full.
double rows_read(const ModelSpec& spec, const KvGroup& group, int64_t rows) {
  if (group.lifetime == KvLifetime::kSequence) return real(rows) / real(group.entry_tokens);
  if (group.kind == KvKind::kCross)
    return real(rows * spec.block->local_positions()) / real(spec.block->length);
  // The first step of a block runs over all prefix rows at once and reads them once.
  const int64_t length = spec.block->length, first = spec.block->local_positions() - length;
  double total = 0;
  for (int64_t r = 0; r < length; ++r) total += real(visible(first + r, group.window));
  return total / real(length);
}

int64_t rows_kept(const ModelSpec& spec, const KvGroup& group, int64_t context) {
  int64_t rows = ceil_div(context, group.entry_tokens);
  if (group.lifetime == KvLifetime::kBlock) {
    rows =
        group.kind == KvKind::kCross ? spec.block->context_rows() : spec.block->local_positions();
  }
  return group.window == 0 ? rows : std::min(rows, group.window);
}

}  // namespace

int64_t ParameterParts::in_layers() const {
  int64_t sum = 0;
  for (const Stack& stack : stacks) sum += stack.layers;
  return sum;
}

ParameterParts parameter_parts(const ModelSpec& spec) {
  ParameterParts out;
  for (const StackSpec& stack : spec.stacks) out.stacks.push_back({stack_name(stack.role), 0});
  for (const ParameterSpec& p : parameters(spec)) {
    const int64_t n = p.numel();
    out.total += n;
    switch (p.role) {
      case Role::kAttentionNormBias:
      case Role::kKvNormBias:
      case Role::kCrossNormBias:
      case Role::kFfnNormBias:
      case Role::kFinalNormBias:
        out.norms += n;
        break;
      default:
        if (p.is_norm()) out.norms += n;
    }
    if (p.layer >= 0) {
      out.stacks[static_cast<size_t>(p.stack)].layers += n;
      continue;
    }
    switch (p.role) {
      case Role::kEmbedding:
      case Role::kBlockEmbedding:
        out.token_tables += n;
        break;
      case Role::kFinalNorm:
      case Role::kFinalNormBias:
        out.final_norms += n;
        break;
      case Role::kExpansion:
      case Role::kExpansionBias:
        out.expansion += n;
        break;
      case Role::kHead:
        out.head += n;
        break;
      default:
        out.embedder += n;
    }
  }
  out.body = body_parameter_count(spec);
  return out;
}

double Flops::products() const {
  double sum = 0;
  for (const FlopPart& p : parts) sum += p.products;
  return sum;
}

double Flops::attention() const {
  double sum = 0;
  for (const FlopPart& p : parts) sum += p.attention;
  return sum;
}

FlopPart Flops::part(const std::string& name) const {
  for (const FlopPart& p : parts) {
    if (p.name == name) return p;
  }
  return {name, 0, 0};
}

Flops training_flops(const ModelSpec& spec, int64_t context, Reach reach) {
  return FlopCounter(spec, context, Pass::kTraining, reach).count();
}

Flops prefill_flops(const ModelSpec& spec, int64_t context) {
  return FlopCounter(spec, context, Pass::kPrefill, Reach::kMean).count();
}

Flops decode_flops(const ModelSpec& spec, int64_t context) {
  return FlopCounter(spec, context, Pass::kDecode, Reach::kMean).count();
}

KvPlan kv_plan(const ModelSpec& spec, int64_t context, double bytes_per_element) {
  KvPlan out;
  for (const KvGroup& group : kv_groups(spec)) {
    KvCost cost{group, real(group.heads * group.entry_width()) * bytes_per_element, 0, 0, 0, 0};
    cost.rows = rows_kept(spec, group, context);
    cost.bytes = real(cost.rows) * cost.bytes_per_entry;
    cost.reads_per_token = rows_read(spec, group, cost.rows) * cost.bytes_per_entry *
                           real(static_cast<int64_t>(group.readers.size()));
    if (group.lifetime == KvLifetime::kSequence) {
      cost.bytes_per_token = cost.bytes_per_entry / real(group.entry_tokens);
      out.bytes_at_context += cost.bytes;
      out.reads_per_token += cost.reads_per_token;
    } else {
      out.local_bytes += cost.bytes;
      out.local_reads_per_token += cost.reads_per_token;
    }
    out.groups.push_back(cost);
  }
  out.bytes_per_token = kv_bytes_per_token(spec, bytes_per_element);
  out.multi_head_bytes_per_token = multi_head_kv_bytes_per_token(spec, bytes_per_element);
  return out;
}

}  // namespace ashlar

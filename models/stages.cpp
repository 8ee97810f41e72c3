#include "models/stages.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "attention/ops.h"
#include "core/base/error.h"
#include "models/spec/parameters.h"

// The stages of decoders and Block Transformers (arXiv 2406.02657: lookup embedder, prefix token
// decoder). Deviations from the paper, all chosen in DESIGN.md: pre-norm RMSNorm and SwiGLU bodies
// instead of GPT-NeoX's, CLA inside the stacks, and one block of EOS in front of the text.
//
// Shape suffixes as in attention/ops.h; M = N + 1 blocks with the EOS block in front, R rows of the
// token decoder = B·M, S = P + L_B − 1 of its positions.

namespace ashlar {
namespace {

using at::Tensor;
using Parameters = std::span<const Tensor>;

class StageBuilder {
 public:
  explicit StageBuilder(const ModelSpec& spec) : spec_(spec), specs_(parameters(spec)) {}

  size_t index(const std::string& name) const {
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].name == name) return i;
    }
    fail(ErrorCode::kInternal, "no parameter is called {}", name);
  }
  size_t index(const StackSpec& stack, ParameterRole role, int64_t layer = -1) const {
    return index(parameter_name(stack, role, layer));
  }

  std::vector<Stage> build() {
    if (spec_.kind == ModelKind::kDecoder) {
      add_token_embedding(spec_.stacks[0]);
      add_stack(0);
    } else {
      add_block_embedding();
      add_stack(0);
      add_prefix();
      add_stack(1);
      add_gather();
    }
    return std::move(stages_);
  }

 private:
  void add_token_embedding(const StackSpec& stack);
  void add_block_embedding();
  void add_prefix();
  void add_stack(int64_t stack);
  void add_layer(int64_t stack, int64_t layer, int64_t group, bool last_reader);
  void add_gather();

  const ModelSpec& spec_;
  std::vector<ParameterSpec> specs_;
  std::vector<Stage> stages_;
};

Tensor lookup(const Tensor& table_VD, const Tensor& ids, at::ScalarType compute) {
  return at::embedding(table_VD, ids).to(compute);
}

// A parameter in the type the products are computed in; norm gains stay in fp32 under bf16.
Tensor cast(const Tensor& parameter, const Tensor& like) {
  return parameter.to(like.scalar_type());
}

void StageBuilder::add_token_embedding(const StackSpec& stack) {
  stages_.push_back({"embed",
                     {index(stack, ParameterRole::kEmbedding)},
                     [](Parameters p, const StageInput& input, StageState) {
                       return StageState{lookup(p[0], input.tokens_BT, input.compute), {}};
                     }});
}

// L_B vectors of width D/L_B side by side make one block vector; no projection.
void StageBuilder::add_block_embedding() {
  const StackSpec& stack = spec_.stacks[0];
  const int64_t length = spec_.block->length, width = stack.d_model;
  stages_.push_back(
      {"global.embed",
       {index(stack, ParameterRole::kBlockEmbedding)},
       [length, width](Parameters p, const StageInput& input, StageState) {
         const Tensor& tokens = input.tokens_BT;
         const int64_t batch = tokens.size(0);
         const Tensor front = at::full({batch, length}, input.eos_id, tokens.options());
         const Tensor ids = at::cat({front, tokens}, 1);
         return StageState{lookup(p[0], ids, input.compute).view({batch, -1, width}), {}};
       }});
}

// Expands each block state into P prefix vectors and puts the next block's first L_B − 1 token
// vectors behind them: rows [c1…cP, t1…t_{L_B−1}], one per block, the last one without text.
void StageBuilder::add_prefix() {
  const StackSpec &global = spec_.stacks[0], &local = spec_.stacks[1];
  const int64_t length = spec_.block->length, prefix = spec_.block->prefix_length;
  const int64_t width = local.d_model;
  stages_.push_back(
      {"local.prefix",
       {index(global, ParameterRole::kExpansion), index(global, ParameterRole::kExpansionBias),
        index(local, ParameterRole::kEmbedding)},
       [=](Parameters p, const StageInput& input, StageState state) {
         const Tensor& tokens = input.tokens_BT;
         const int64_t batch = tokens.size(0), blocks = state.x.size(1);
         const Tensor context = at::linear(state.x, cast(p[0], state.x), cast(p[1], state.x))
                                    .view({batch * blocks, prefix, width});
         if (length == 1) return StageState{context, {}};
         const Tensor behind = at::full({batch, length}, input.eos_id, tokens.options());
         const Tensor ids =
             at::cat({tokens, behind}, 1).view({batch * blocks, length}).narrow(1, 0, length - 1);
         return StageState{at::cat({context, lookup(p[2], ids, input.compute)}, 1), {}};
       }});
}

void StageBuilder::add_stack(int64_t stack_index) {
  const StackSpec& stack = spec_.stacks[static_cast<size_t>(stack_index)];
  const std::vector<int64_t> groups = group_of_layer(spec_, stack_index);
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    const bool last = std::find(groups.begin() + static_cast<int64_t>(l) + 1, groups.end(),
                                groups[l]) == groups.end();
    add_layer(stack_index, static_cast<int64_t>(l), groups[l], last);
  }
  const double eps = stack.final_norm.eps;
  stages_.push_back({std::string(stack_name(stack.role)) + ".norm",
                     {index(stack, ParameterRole::kFinalNorm)},
                     [eps](Parameters p, const StageInput&, StageState state) {
                       return StageState{rms_norm(state.x, p[0], eps).first, std::move(state.kv)};
                     }});
}

// Pre-norm layer: x + Attention(norm(x)), then x + SwiGLU(norm(x)). An owner projects K/V, rotates
// K and leaves both in the map; a reader only projects Q. In arXiv 2405.12981 §2.3 the K/V input of
// an owner may have a norm gain of its own (separate_kv_norm).
void StageBuilder::add_layer(int64_t stack_index, int64_t layer, int64_t group, bool last_reader) {
  const StackSpec& stack = spec_.stacks[static_cast<size_t>(stack_index)];
  const LayerSpec& spec = stack.layers[static_cast<size_t>(layer)];
  const bool owner = spec.kv_owner == layer;
  const bool separate = owner && spec.attention.separate_kv_norm;
  using Role = ParameterRole;
  std::vector<size_t> names;
  for (Role role : {Role::kAttentionNorm, Role::kQuery, Role::kAttentionOut, Role::kFfnNorm,
                    Role::kGate, Role::kUp, Role::kDown}) {
    names.push_back(index(stack, role, layer));
  }
  if (owner) {
    names.push_back(index(stack, Role::kKey, layer));
    names.push_back(index(stack, Role::kValue, layer));
  }
  if (separate) names.push_back(index(stack, Role::kKvNorm, layer));
  const auto run = [=, a = spec.attention, eps = spec.norm.eps](
                       Parameters p, const StageInput& input, StageState state) {
    const int64_t rows = state.x.size(0), positions = state.x.size(1);
    const auto heads = [&](const Tensor& t, int64_t count) {
      return t.view({rows, positions, count, a.head_dim});
    };
    const RopeTable& rope = input.ropes->get(positions, a.rope, state.x.scalar_type());
    auto [normed, x] = rms_norm(state.x, p[0], eps);
    const Tensor wq = cast(p[1], x);
    Tensor q;
    if (owner) {
      const Tensor wk = cast(p[7], x), wv = cast(p[8], x);
      std::vector<Tensor> kv;
      if (separate) {
        auto [kv_input, skip] = rms_norm(x, p[9], eps);
        x = skip;
        q = linear_many(normed, wq)[0];
        kv = linear_many(kv_input, wk, wv);
      } else {
        kv = linear_many(normed, wq, wk, wv);
        q = kv[0];
        kv.erase(kv.begin());
      }
      state.kv[group] = {rotate(heads(kv[0], a.kv_heads), rope), heads(kv[1], a.kv_heads)};
    } else {
      q = linear_many(normed, wq)[0];
    }
    const KvPair& shared = state.kv.at(group);
    const Tensor mixed = causal_attention(rotate(heads(q, a.heads), rope), shared.k, shared.v);
    x = linear_add(x, mixed.reshape({rows, positions, a.heads * a.head_dim}), cast(p[2], x));
    auto [ffn_input, skip] = rms_norm(x, p[3], eps);
    const auto gate_up = linear_many(ffn_input, cast(p[4], x), cast(p[5], x));
    x = linear_add(skip, swiglu(gate_up[0], gate_up[1]), cast(p[6], x));
    if (last_reader) state.kv.erase(group);
    return StageState{x, std::move(state.kv)};
  };
  stages_.push_back({layer_prefix(stack, layer), std::move(names), run});
}

// Positions P−1 … P+L_B−2 of each row predict its L_B tokens; rows follow the text.
void StageBuilder::add_gather() {
  const int64_t length = spec_.block->length, first = spec_.block->prefix_length - 1;
  stages_.push_back(
      {"local.gather", {}, [=](Parameters, const StageInput& input, StageState state) {
         const int64_t width = state.x.size(2);
         return StageState{
             state.x.narrow(1, first, length).reshape({input.tokens_BT.size(0), -1, width}), {}};
       }});
}

}  // namespace

const RopeTable& RopeTables::get(int64_t positions, const RopeSpec& rope, at::ScalarType compute) {
  for (const Entry& entry : entries_) {
    if (entry.positions == positions && entry.rope == rope && entry.compute == compute) {
      return entry.table;
    }
  }
  entries_.push_back({positions, rope, compute, make_rope_table(positions, rope, compute)});
  return entries_.back().table;
}

std::vector<Stage> make_stages(const ModelSpec& spec) { return StageBuilder(spec).build(); }

size_t head_parameter(const ModelSpec& spec) {
  const StackSpec& stack = spec.token_stack();
  return StageBuilder(spec).index(
      stack, spec.tied_head ? ParameterRole::kEmbedding : ParameterRole::kHead);
}

}  // namespace ashlar

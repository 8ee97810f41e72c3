#include "models/stages.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "models/layer_stage.h"

// The stages of decoders and Block Transformers (arXiv 2406.02657 §2 and its code's embedders and
// token decoders). Deviations from the paper, all chosen in the design: one block of EOS in front
// of the text, so that every token is predicted; the encoder's token-type vector is part of its
// learned positions; cross-attention is scaled by 1/√E, as everywhere, where T5 leaves that to
// initialisation.
//
// Shape suffixes as in attention/ops.h; M = N + 1 blocks with the EOS block in front, R rows of the
// token decoder = B·M, S its positions.

namespace ashlar {
namespace {

using at::Tensor;
using Parameters = std::span<const Tensor>;
using Role = ParameterRole;

Tensor lookup(const Tensor& table_VD, const Tensor& ids, at::ScalarType compute) {
  return at::embedding(table_VD, ids).to(compute);
}

// The text with its block of EOS in front.
Tensor with_front(const StageInput& input, int64_t length) {
  const Tensor& tokens = input.tokens_BT;
  return at::cat({at::full({tokens.size(0), length}, input.eos_id, tokens.options()), tokens}, 1);
}

class StageBuilder {
 public:
  explicit StageBuilder(const ModelSpec& spec) : spec_(spec), specs_(parameters(spec)) {}

  std::vector<Stage> build() {
    if (spec_.kind == ModelKind::kDecoder) {
      add_token_embedding();
      add_layers(0);
      add_final_norm(0);
    } else {
      add_embedder();
      add_layers(0);
      add_final_norm(0);
      add_context();
      add_layers(1);
      add_final_norm(1);
      add_gather();
    }
    return std::move(stages_);
  }

 private:
  struct Picked {
    std::vector<size_t> indices;
    std::vector<Role> roles;
  };
  template <typename Wanted>
  void pick(Picked& out, Wanted wanted) const {
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (!wanted(specs_[i])) continue;
      out.indices.push_back(i);
      out.roles.push_back(specs_[i].role);
    }
  }

  // Adds a stage that owns those parameters of (stack, role) outside layers that the model has;
  // body(weights, input, state) → state.
  template <typename Body>
  void add(std::string name, const std::vector<std::pair<size_t, Role>>& wanted, Body body) {
    Picked picked;
    for (const auto& [stack, role] : wanted) {
      pick(picked, [&](const ParameterSpec& p) {
        return p.stack == static_cast<int64_t>(stack) && p.layer < 0 && p.role == role;
      });
    }
    Stage stage{std::move(name), std::move(picked.indices)};
    stage.run = [roles = std::move(picked.roles), body](Parameters p, const StageInput& input,
                                                        StageState state) {
      return body(StageWeights(roles, p), input, std::move(state));
    };
    stages_.push_back(std::move(stage));
  }

  void add_token_embedding();
  void add_embedder();
  void add_encoder();
  void add_context();
  void add_layers(size_t stack);
  void add_final_norm(size_t stack);
  void add_gather();

  const ModelSpec& spec_;
  std::vector<ParameterSpec> specs_;
  std::vector<Stage> stages_;
};

void StageBuilder::add_token_embedding() {
  add("embed", {{0, Role::kEmbedding}},
      [](const StageWeights& w, const StageInput& input, StageState) {
        return StageState{lookup(w[Role::kEmbedding], input.tokens_BT, input.compute), {}, {}};
      });
}

// Lookup: L_B vectors of width D/L_B side by side make one block vector; projection: L_B vectors of
// any width, then a linear map.
void StageBuilder::add_embedder() {
  if (spec_.block->embedder == EmbedderKind::kEncoder) return add_encoder();
  const int64_t length = spec_.block->length;
  add("global.embed",
      {{0, Role::kBlockEmbedding}, {0, Role::kProjection}, {0, Role::kProjectionBias}},
      [length](const StageWeights& w, const StageInput& input, StageState) {
        const Tensor ids = with_front(input, length);
        const Tensor rows = lookup(w[Role::kBlockEmbedding], ids, input.compute)
                                .view({ids.size(0), ids.size(1) / length, -1});
        if (!w.has(Role::kProjection)) return StageState{rows, {}, {}};
        return StageState{apply_linear(w, rows, Role::kProjection, Role::kProjectionBias), {}, {}};
      });
}

// [CLS…, tokens] of every block plus learned positions through the encoder's layers; the outputs at
// the CLS tokens (or at all tokens) side by side, then a linear map.
void StageBuilder::add_encoder() {
  const int64_t length = spec_.block->length, cls = spec_.block->cls_tokens;
  const NormSpec norm = spec_.stacks[2].final_norm;
  add("encoder.embed",
      {{2, Role::kEmbedding},
       {2, Role::kPositions},
       {2, Role::kClsTokens},
       {2, Role::kFinalNorm},
       {2, Role::kFinalNormBias}},
      [=](const StageWeights& w, const StageInput& input, StageState) {
        const Tensor ids = with_front(input, length).view({-1, length});
        Tensor x = lookup(w[Role::kEmbedding], ids, input.compute);
        if (cls > 0) {
          const Tensor front = w.as(Role::kClsTokens, x).expand({x.size(0), cls, x.size(2)});
          x = at::cat({front, x}, 1);
        }
        x = x + w.as(Role::kPositions, x);
        return StageState{
            apply_norm(w, x, norm, Role::kFinalNorm, Role::kFinalNormBias).first, {}, {}};
      });
  add_layers(2);
  add("global.embed_projection", {{0, Role::kProjection}, {0, Role::kProjectionBias}},
      [=](const StageWeights& w, const StageInput& input, StageState state) {
        const int64_t pieces = cls > 0 ? cls : length, batch = input.tokens_BT.size(0);
        const Tensor x = state.x.narrow(1, 0, pieces)
                             .reshape({batch, state.x.size(0) / batch, pieces * state.x.size(2)});
        return StageState{apply_linear(w, x, Role::kProjection, Role::kProjectionBias), {}, {}};
      });
}

// Turns every block state into the token decoder's input for the next block, one row per block, the
// last one without text: [c1…cP, t1…t_{L−1}] (prefix), [EOS, t1…t_{L−1}] + c (summation), or
// [EOS, t1…t_{L−1}] with c for cross-attention.
void StageBuilder::add_context() {
  const BlockSpec block = *spec_.block;
  const int64_t width = spec_.stacks[1].d_model;
  add("local.context", {{0, Role::kExpansion}, {0, Role::kExpansionBias}, {1, Role::kEmbedding}},
      [=](const StageWeights& w, const StageInput& input, StageState state) {
        const Tensor& tokens = input.tokens_BT;
        const int64_t batch = tokens.size(0), rows = batch * state.x.size(1);
        const Tensor context = apply_linear(w, state.x, Role::kExpansion, Role::kExpansionBias)
                                   .view({rows, block.context_rows(), width});
        const Tensor behind = at::full({batch, block.length}, input.eos_id, tokens.options());
        Tensor ids =
            at::cat({tokens, behind}, 1).view({rows, block.length}).narrow(1, 0, block.length - 1);
        if (block.context == ContextKind::kPrefix) {
          if (block.length == 1) return StageState{context, {}, {}};
          return StageState{
              at::cat({context, lookup(w[Role::kEmbedding], ids, input.compute)}, 1), {}, {}};
        }
        ids = at::cat({at::full({rows, 1}, input.eos_id, tokens.options()), ids}, 1);
        const Tensor x = lookup(w[Role::kEmbedding], ids, input.compute);
        if (block.context == ContextKind::kSummation) return StageState{x + context, {}, {}};
        return StageState{x, {}, context};
      });
}

void StageBuilder::add_layers(size_t stack_index) {
  const StackSpec& stack = spec_.stacks[stack_index];
  const bool encoder = stack.role == StackRole::kEncoder;
  const auto groups = group_of_layer(spec_, static_cast<int64_t>(stack_index));
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    LayerPlan plan;
    plan.spec = stack.layers[l];
    plan.role = stack.role;
    plan.owner = plan.spec.kv_owner == static_cast<int64_t>(l);
    plan.group = groups[l];
    plan.last_reader = encoder || std::find(groups.begin() + static_cast<int64_t>(l) + 1,
                                            groups.end(), groups[l]) == groups.end();
    plan.cross = spec_.has_cross_attention(stack);
    Picked picked;
    pick(picked, [&](const ParameterSpec& p) {
      return p.stack == static_cast<int64_t>(stack_index) && p.layer == static_cast<int64_t>(l);
    });
    plan.roles = std::move(picked.roles);
    Stage stage{layer_prefix(stack, static_cast<int64_t>(l)), std::move(picked.indices)};
    stage.group = plan.group;
    stage.owner = plan.owner;
    stage.last_reader = plan.last_reader;
    stage.context = plan.cross;
    stage.run = [plan](Parameters p, const StageInput& input, StageState state) {
      return run_layer(plan, p, input, std::move(state));
    };
    stages_.push_back(std::move(stage));
  }
}

void StageBuilder::add_final_norm(size_t stack_index) {
  const StackSpec& stack = spec_.stacks[stack_index];
  const NormSpec norm = stack.final_norm;
  add(std::string(stack_name(stack.role)) + ".norm",
      {{stack_index, Role::kFinalNorm}, {stack_index, Role::kFinalNormBias}},
      [norm](const StageWeights& w, const StageInput&, StageState state) {
        return StageState{
            apply_norm(w, state.x, norm, Role::kFinalNorm, Role::kFinalNormBias).first,
            std::move(state.kv),
            {}};
      });
}

// L_B positions of each row predict its tokens, from the last prefix vector on; rows follow the
// text.
void StageBuilder::add_gather() {
  const int64_t length = spec_.block->length, first = spec_.block->local_positions() - length;
  Stage stage{"local.gather", {}};
  stage.run = [=](Parameters, const StageInput& input, StageState state) {
    const int64_t width = state.x.size(2);
    return StageState{
        state.x.narrow(1, first, length).reshape({input.tokens_BT.size(0), -1, width}), {}, {}};
  };
  stages_.push_back(std::move(stage));
}

}  // namespace

const RopeTable& RopeTables::get(int64_t positions, const RopeSpec& rope, at::ScalarType compute,
                                 at::Device device) {
  for (const Entry& entry : entries_) {
    if (entry.positions == positions && entry.rope == rope && entry.compute == compute &&
        entry.device == device) {
      return entry.table;
    }
  }
  entries_.push_back(
      {positions, rope, compute, device, make_rope_table(positions, rope, compute, device)});
  return entries_.back().table;
}

std::vector<Stage> make_stages(const ModelSpec& spec) { return StageBuilder(spec).build(); }

size_t head_parameter(const ModelSpec& spec) {
  const std::string name = parameter_name(
      spec.token_stack(), spec.tied_head ? ParameterRole::kEmbedding : ParameterRole::kHead);
  const auto specs = parameters(spec);
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return i;
  }
  fail(ErrorCode::kInternal, "no parameter is called {}", name);
}

}  // namespace ashlar

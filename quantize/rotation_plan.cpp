// The rules are those of QuaRot (arXiv 2404.00456 §4) carried over to cross-layer attention and
// Block Transformers:
//  - a residual stream has one basis Q; every writer's output axis and every reader's input axis
//    turns with it, and the gain of the norm between them is folded into each reader first;
//  - a KvGroup has one value basis I⊗H_dh: fused once into the owner's W_v, undone in the W_o of
//    every reader;
//  - keys turn online after RoPE; the same H_dh for all readers of a group;
//  - mixing across heads and the FFN's Hadamard act online, their inverses sit in W_o and W_down;
//  - the concat embedder of the global stack can only turn each slot (I⊗Q_s); the butterfly across
//    the L_B slots is online, so the stream's basis is (I⊗Q_s)(H_LB⊗I).

#include "quantize/rotation_plan.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "models/spec/parameters.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

HadamardPlan plan_for(int64_t n, const std::string& what, const char* rotation) {
  require(hadamard_supported(n), ErrorCode::kRequest,
          "rotation: {} = {} has no known Hadamard matrix; leave '{}' out of the recipe", what, n,
          rotation);
  return hadamard_plan(n);
}

std::vector<int8_t> random_signs(int64_t n, uint64_t seed, uint64_t stream) {
  const Philox rng(seed, stream);
  std::vector<int8_t> signs(static_cast<size_t>(n));
  for (size_t i = 0; i < signs.size(); ++i) signs[i] = rng.bits(i) & 1 ? -1 : 1;
  return signs;
}

class Planner {
 public:
  Planner(const ModelSpec& spec, const RotationRequest& request) : spec_(spec), request_(request) {
    if (!request.any()) return;
    require_basic(spec, "rotation planner");
    plan_.manifest.stacks.resize(spec.stacks.size());
    plan_.untie_head = request.residual && spec.tied_head;
    for (size_t s = 0; s < spec.stacks.size(); ++s) plan_stack(s);
  }
  RotationPlan take() { return std::move(plan_); }

 private:
  TensorChange& change(const std::string& name) { return plan_.changes[name]; }

  // Basis of the embedder's rows and of the whole stream; they differ in the global stack.
  void stream_bases(size_t s, Basis& rows, Basis& stream) {
    const StackSpec& stack = spec_.stacks[s];
    const std::string what = fmt::format("{} d_model", stack_name(stack.role));
    if (stack.role != StackRole::kGlobal) {
      rows = {{plan_for(stack.d_model, what, "residual"), 1, 1,
               random_signs(stack.d_model, request_.seed, s)}};
      stream = rows;
      return;
    }
    const int64_t length = spec_.block->length, width = stack.d_model / length;
    rows = {{plan_for(width, what + " / block length", "residual"), 1, 1,
             random_signs(width, request_.seed, s)}};
    stream = rows;
    stream[0].repeat = length;
    stream.push_back({plan_for(length, "block length", "residual"), width, 1, {}});
    plan_.manifest.stacks[s].slots = true;
  }

  void read(const std::string& name, const std::string& norm, const Basis& stream) {
    change(name).fold_gain = norm;
    change(name).input = stream;
  }

  void plan_residual(size_t s) {
    const StackSpec& stack = spec_.stacks[s];
    const bool global = stack.role == StackRole::kGlobal;
    Basis rows, stream;
    stream_bases(s, rows, stream);
    change(parameter_name(stack, global ? Role::kBlockEmbedding : Role::kEmbedding)).input = rows;
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      const auto i = static_cast<int64_t>(l);
      const LayerSpec& layer = stack.layers[l];
      const auto name = [&](Role role) { return parameter_name(stack, role, i); };
      read(name(Role::kQuery), name(Role::kAttentionNorm), stream);
      if (layer.kv_owner == i) {
        const std::string norm =
            name(layer.attention.separate_kv_norm ? Role::kKvNorm : Role::kAttentionNorm);
        read(name(Role::kKey), norm, stream);
        read(name(Role::kValue), norm, stream);
        if (layer.attention.separate_kv_norm) plan_.unit_norms.push_back(norm);
      }
      change(name(Role::kAttentionOut)).output = stream;
      read(name(Role::kGate), name(Role::kFfnNorm), stream);
      read(name(Role::kUp), name(Role::kFfnNorm), stream);
      change(name(Role::kDown)).output = stream;
      plan_.unit_norms.push_back(name(Role::kAttentionNorm));
      plan_.unit_norms.push_back(name(Role::kFfnNorm));
    }
    const std::string final_norm = parameter_name(stack, Role::kFinalNorm);
    plan_.unit_norms.push_back(final_norm);
    if (global) {
      read(parameter_name(stack, Role::kExpansion), final_norm, stream);
    } else {
      read(parameter_name(stack, Role::kHead), final_norm, stream);
    }
    if (stack.role == StackRole::kLocal) {
      // The expansion writes P prefix rows into this stream.
      const StackSpec& writer = spec_.stacks[s - 1];
      Basis prefixes = stream;
      for (BasisFactor& factor : prefixes) factor.repeat *= spec_.block->prefix_length;
      change(parameter_name(writer, Role::kExpansion)).output = prefixes;
      change(parameter_name(writer, Role::kExpansionBias)).input = prefixes;
    }
  }

  void plan_stack(size_t s) {
    const StackSpec& stack = spec_.stacks[s];
    StackRotation& rotation = plan_.manifest.stacks[s];
    rotation.seed = request_.seed;
    rotation.residual = request_.residual;
    rotation.value = request_.value;
    rotation.heads = request_.heads;
    rotation.keys = request_.keys;
    rotation.down = request_.down;
    if (request_.residual) plan_residual(s);
    for (size_t l = 0; l < stack.layers.size(); ++l) plan_layer(stack, static_cast<int64_t>(l));
  }

  void plan_layer(const StackSpec& stack, int64_t index) {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    const AttentionSpec& a = layer.attention;
    const std::string where = fmt::format("{} layer {} ", stack_name(stack.role), index);
    const auto name = [&](Role role) { return parameter_name(stack, role, index); };
    if (request_.keys) plan_for(a.head_dim, where + "head_dim", "keys");
    if (request_.value) {
      const HadamardPlan plan = plan_for(a.head_dim, where + "head_dim", "value");
      if (layer.kv_owner == index) {
        change(name(Role::kValue)).output = {{plan, 1, a.kv_heads, {}}};
      }
      change(name(Role::kAttentionOut)).input.push_back({plan, 1, a.heads, {}});
    }
    if (request_.heads) {
      change(name(Role::kAttentionOut))
          .input.push_back({plan_for(a.heads, where + "heads", "heads"), a.head_dim, 1, {}});
    }
    if (request_.down) {
      change(name(Role::kDown))
          .input.push_back({plan_for(layer.ffn.d_ff, where + "d_ff", "down"), 1, 1, {}});
    }
  }

  const ModelSpec& spec_;
  const RotationRequest& request_;
  RotationPlan plan_;
};

}  // namespace

RotationPlan plan_rotation(const ModelSpec& spec, const RotationRequest& request) {
  return Planner(spec, request).take();
}

void apply_basis(const Basis& basis, double* x) {
  std::vector<double> scratch;
  for (const BasisFactor& factor : basis) {
    const int64_t piece = factor.plan.n * factor.inner;
    scratch.resize(static_cast<size_t>(piece));
    for (int64_t r = 0; r < factor.repeat; ++r) {
      double* at = x + r * piece;
      if (factor.inner == 1) {
        hadamard_apply(factor.plan, at, scratch.data());
      } else {
        hadamard_apply_strided(factor.plan, at, factor.inner, scratch.data());
      }
      for (size_t i = 0; i < factor.signs.size(); ++i) at[i] *= factor.signs[i];
    }
  }
}

}  // namespace ashlar

// The rules are those of QuaRot (arXiv 2404.00456 §4) carried over to cross-layer attention, latent
// attention and Block Transformers:
//  - a residual stream has one basis Q; every writer's output axis and bias and every reader's
//  input
//    axis turn with it, and the gain of the norm between them is folded into each reader first.
//    LayerNorm subtracts a mean, which does not commute with Q: such a stream cannot turn;
//  - a KvGroup has one value basis I⊗H_dh: fused once into the owner's W_v and its bias, undone in
//    the W_o of every reader. The cached value of latent attention is the latent: its basis H_dc is
//    fused into the owner's down-projection (RMSNorm commutes with it once its gain is folded) and
//    undone in both up-projections;
//  - keys turn online after RoPE; the same H_dh for all readers of a group. A latent's key is
//  shared
//    by heads that see it through different maps: it does not turn;
//  - mixing across heads and the FFN's Hadamard act online, their inverses sit in W_o and W_down;
//  - the lookup embedder of the global stack can only turn each slot (I⊗Q_s); the butterfly across
//    the L_B slots is online, so the stream's basis is (I⊗Q_s)(H_LB⊗I). A projection writes the
//    whole width and needs no butterfly;
//  - contexts that enter the token decoder's stream (prefix, summation) turn with it; those that
//    cross-attention reads do not belong to it and stay, as do the block encoder and the caches of
//    cross-attention, which live for a block.

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
    if (stack.role != StackRole::kGlobal || spec_.block->embedder != EmbedderKind::kLookup) {
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

  // Biases that a model does not have are never looked up.
  void write(const std::string& weight, const std::string& bias, const Basis& basis) {
    change(weight).output = basis;
    change(bias).input = basis;
  }

  void require_rms_norm(const StackSpec& stack) {
    bool rms = stack.final_norm.kind == NormKind::kRmsNorm;
    for (const LayerSpec& layer : stack.layers) rms = rms && layer.norm.kind == NormKind::kRmsNorm;
    require(rms, ErrorCode::kRequest,
            "rotation: the {} stack has LayerNorm, whose mean subtraction does not commute with a "
            "rotation; leave 'residual' out of the recipe",
            stack_name(stack.role));
  }

  void plan_residual(size_t s) {
    const StackSpec& stack = spec_.stacks[s];
    require_rms_norm(stack);
    const bool global = stack.role == StackRole::kGlobal;
    Basis rows, stream;
    stream_bases(s, rows, stream);
    if (global && spec_.block->embedder != EmbedderKind::kLookup) {
      write(parameter_name(stack, Role::kProjection), parameter_name(stack, Role::kProjectionBias),
            stream);
    } else {
      change(parameter_name(stack, global ? Role::kBlockEmbedding : Role::kEmbedding)).input = rows;
    }
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      plan_stream(stack, static_cast<int64_t>(l), stream);
    }
    const std::string final_norm = parameter_name(stack, Role::kFinalNorm);
    plan_.unit_norms.push_back(final_norm);
    if (global) {
      read(parameter_name(stack, Role::kExpansion), final_norm, stream);
    } else {
      read(parameter_name(stack, Role::kHead), final_norm, stream);
    }
    if (stack.role == StackRole::kLocal && spec_.block->context != ContextKind::kCrossAttention) {
      // The expansion writes the context rows into this stream.
      const StackSpec& writer = spec_.stacks[0];
      Basis contexts = stream;
      for (BasisFactor& factor : contexts) factor.repeat *= spec_.block->context_rows();
      write(parameter_name(writer, Role::kExpansion), parameter_name(writer, Role::kExpansionBias),
            contexts);
    }
  }

  // Readers and writers of the stream in one layer.
  void plan_stream(const StackSpec& stack, int64_t index, const Basis& stream) {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    const AttentionSpec& a = layer.attention;
    const auto name = [&](Role role) { return parameter_name(stack, role, index); };
    const bool low_rank = a.query_latent_dim > 0;
    read(name(low_rank ? Role::kQueryDown : Role::kQuery), name(Role::kAttentionNorm), stream);
    if (layer.kv_owner == index) {
      const std::string norm = name(a.separate_kv_norm ? Role::kKvNorm : Role::kAttentionNorm);
      if (a.latent()) {
        read(name(Role::kLatent), norm, stream);
      } else {
        read(name(Role::kKey), norm, stream);
        read(name(Role::kValue), norm, stream);
      }
      if (a.separate_kv_norm) plan_.unit_norms.push_back(norm);
    }
    write(name(Role::kAttentionOut), name(Role::kAttentionOutBias), stream);
    if (spec_.has_cross_attention(stack)) {
      read(name(Role::kCrossQuery), name(Role::kCrossNorm), stream);
      write(name(Role::kCrossOut), name(Role::kCrossOutBias), stream);
      plan_.unit_norms.push_back(name(Role::kCrossNorm));
    }
    if (layer.ffn.gated()) read(name(Role::kGate), name(Role::kFfnNorm), stream);
    read(name(Role::kUp), name(Role::kFfnNorm), stream);
    write(name(Role::kDown), name(Role::kDownBias), stream);
    plan_.unit_norms.push_back(name(Role::kAttentionNorm));
    plan_.unit_norms.push_back(name(Role::kFfnNorm));
  }

  void plan_stack(size_t s) {
    const StackSpec& stack = spec_.stacks[s];
    if (stack.role == StackRole::kEncoder) return;
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
    if (request_.keys) {
      require(!a.latent(), ErrorCode::kRequest,
              "rotation: {}has latent attention, whose heads share one key; leave 'keys' out of "
              "the recipe",
              where);
      plan_for(a.head_dim, where + "head_dim", "keys");
    }
    if (request_.value) a.latent() ? plan_latent(stack, index) : plan_value(stack, index);
    if (request_.heads) {
      change(name(Role::kAttentionOut))
          .input.push_back({plan_for(a.heads, where + "heads", "heads"), a.value_dim(), 1, {}});
    }
    if (request_.down) {
      change(name(Role::kDown))
          .input.push_back({plan_for(layer.ffn.d_ff, where + "d_ff", "down"), 1, 1, {}});
    }
  }

  void plan_value(const StackSpec& stack, int64_t index) {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    const AttentionSpec& a = layer.attention;
    const auto name = [&](Role role) { return parameter_name(stack, role, index); };
    const std::string what = fmt::format("{} layer {} head_dim", stack_name(stack.role), index);
    const HadamardPlan plan = plan_for(a.head_dim, what, "value");
    if (layer.kv_owner == index) {
      write(name(Role::kValue), name(Role::kValueBias), {{plan, 1, a.kv_heads, {}}});
    }
    change(name(Role::kAttentionOut)).input.push_back({plan, 1, a.heads, {}});
  }

  void plan_latent(const StackSpec& stack, int64_t index) {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    if (layer.kv_owner != index) return;
    const auto name = [&](Role role) { return parameter_name(stack, role, index); };
    const std::string what = fmt::format("{} layer {} latent_dim", stack_name(stack.role), index);
    const Basis basis = {{plan_for(layer.attention.latent_dim, what, "value"), 1, 1, {}}};
    change(name(Role::kLatent)).output = basis;  // its first latent_dim outputs
    read(name(Role::kKeyUp), name(Role::kLatentNorm), basis);
    read(name(Role::kValueUp), name(Role::kLatentNorm), basis);
    plan_.unit_norms.push_back(name(Role::kLatentNorm));
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

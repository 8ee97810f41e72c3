#include "export/adapt.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/base/error.h"
#include "models/spec/parameters.h"

namespace ashlar {
namespace {

using Role = ParameterRole;
using Values = std::vector<double>;

// Where a target stack's layers come from.
struct StackSource {
  const StackSpec* stack = nullptr;
  std::vector<int64_t> layers;
};

class Adapter {
 public:
  Adapter(const ModelData& source, const ModelSpec& target, const AdaptOptions& options)
      : source_(source), target_(target), options_(options) {
    require(!source.rotation.any_online() && source.rotation.stacks.empty(), ErrorCode::kRequest,
            "the model is rotated: adapt the original");
    require(source.spec.vocab_size == target.vocab_size, ErrorCode::kRequest,
            "vocab_size: the model has {}, the configuration {}", source.spec.vocab_size,
            target.vocab_size);
    plan();
  }

  ModelData run();

 private:
  void plan();
  void plan_blocks();
  std::optional<Values> read(const StackSpec& stack, Role role, int64_t layer = -1) const;
  Values copy(const ParameterSpec& p) const;
  Values embedder(const ParameterSpec& p) const;
  std::optional<Values> layer_tensor(const ParameterSpec& p) const;

  // K/V of one group.
  bool pools(size_t stack, int64_t owner) const;
  std::vector<int64_t> pooled_layers(size_t stack, int64_t owner) const;
  Values gain(const StackSpec& stack, int64_t layer) const;
  Values shift(const StackSpec& stack, int64_t layer) const;
  Values folded(const StackSpec& stack, Role weight, int64_t layer, const Values& gain) const;
  Values folded_bias(const StackSpec& stack, Role weight, Role bias, int64_t layer,
                     const Values& shift) const;
  Values pooled(const ParameterSpec& p) const;
  std::optional<Values> owner_tensor(const ParameterSpec& p) const;

  const ModelData& source_;
  const ModelSpec& target_;
  AdaptOptions options_;
  bool to_blocks_ = false;
  std::vector<StackSource> from_;  // by target stack
};

void Adapter::plan() {
  const ModelSpec& s = source_.spec;
  to_blocks_ = !s.block && target_.block;
  if (to_blocks_) return plan_blocks();
  require(s.kind == target_.kind && s.stacks.size() == target_.stacks.size() &&
              s.block == target_.block,
          ErrorCode::kRequest,
          "a {} cannot become this architecture: from a decoder to a decoder or a Block "
          "Transformer, or between Block Transformers of one block section",
          s.block ? "Block Transformer" : "decoder");
  for (size_t i = 0; i < s.stacks.size(); ++i) {
    const size_t count = s.stacks[i].layers.size();
    require(count == target_.stacks[i].layers.size(), ErrorCode::kRequest,
            "{}: the model has {} layers, the configuration {}", stack_name(s.stacks[i].role),
            count, target_.stacks[i].layers.size());
    StackSource from{&s.stacks[i], {}};
    from.layers.resize(count);
    std::iota(from.layers.begin(), from.layers.end(), 0);
    from_.push_back(std::move(from));
  }
}

void Adapter::plan_blocks() {
  const StackSpec& stack = source_.spec.stacks[0];
  const BlockSpec& block = *target_.block;
  const auto layers = static_cast<int64_t>(stack.layers.size());
  const auto below = static_cast<int64_t>(target_.stacks[0].layers.size());
  const auto above = static_cast<int64_t>(target_.stacks[1].layers.size());
  require(block.embedder == EmbedderKind::kProjection && block.embedding_dim == stack.d_model &&
              target_.stacks[0].d_model == stack.d_model &&
              target_.stacks[1].d_model == stack.d_model,
          ErrorCode::kRequest,
          "a decoder of width {0} becomes a Block Transformer with block.embedder: projection, "
          "embedding_dim {0} and d_model {0} in both stacks",
          stack.d_model);
  require(block.context != ContextKind::kCrossAttention, ErrorCode::kRequest,
          "a decoder has no weights for block.context: cross_attention");
  StackSource global{&stack, {}}, local{&stack, {}};
  bool fits = false;
  int64_t step = 1, offset = 0;
  switch (options_.split) {
    case LayerSplit::kPartition:
      fits = below + above == layers;
      offset = below;
      break;
    case LayerSplit::kSkip:
      fits = below == above && 2 * below == layers;
      step = 2;
      break;
    case LayerSplit::kDuplicate:
      fits = below == above && below == layers;
      break;
  }
  require(fits, ErrorCode::kRequest,
          "{} layers do not split into {} + {}: partition needs their sum, skip twice each, "
          "duplicate each",
          layers, below, above);
  for (int64_t i = 0; i < below; ++i) global.layers.push_back(step * i);
  for (int64_t i = 0; i < above; ++i) local.layers.push_back(offset + step * i);
  from_ = {std::move(global), std::move(local)};
}

std::optional<Values> Adapter::read(const StackSpec& stack, Role role, int64_t layer) const {
  const std::string name = parameter_name(stack, role, layer);
  if (!source_.has(name)) return std::nullopt;
  const std::vector<float> floats = to_floats(source_.tensor(name));
  return Values(floats.begin(), floats.end());
}

// A tensor outside layers.
Values Adapter::copy(const ParameterSpec& p) const {
  const StackSpec& stack = *from_[static_cast<size_t>(p.stack)].stack;
  std::optional<Values> values = read(stack, p.role);
  // An untied head of a tied model is its table.
  if (!values && p.role == Role::kHead) values = read(stack, Role::kEmbedding);
  require(values.has_value(), ErrorCode::kRequest, "'{}' has nothing to come from", p.name);
  return *values;
}

// Mean of the block's token vectors, and every context vector the state itself.
Values Adapter::embedder(const ParameterSpec& p) const {
  Values out(static_cast<size_t>(p.numel()), p.is_norm() ? 1.0 : 0.0);
  const bool mean = p.role == Role::kProjection;
  if (!mean && p.role != Role::kExpansion) return out;  // biases, and the block stack's final norm
  const int64_t width = mean ? p.shape[0] : p.shape[1];
  const int64_t copies = p.numel() / (width * width);
  for (int64_t c = 0; c < copies; ++c) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = mean ? i * p.shape[1] + c * width + i : (c * width + i) * width + i;
      out[static_cast<size_t>(at)] = mean ? 1.0 / static_cast<double>(copies) : 1.0;
    }
  }
  return out;
}

// Source layers that own the K/V of the target group's layers.
std::vector<int64_t> Adapter::pooled_layers(size_t s, int64_t owner) const {
  const StackSpec& target = target_.stacks[s];
  const StackSource& from = from_[s];
  std::vector<int64_t> out;
  for (size_t l = 0; l < target.layers.size(); ++l) {
    if (target.layers[l].kv_owner != owner) continue;
    const int64_t layer = from.stack->layers[static_cast<size_t>(from.layers[l])].kv_owner;
    if (std::find(out.begin(), out.end(), layer) == out.end()) out.push_back(layer);
    if (options_.kv == KvPooling::kFirst) break;
  }
  return out;
}

// Whether the owner's K/V differ from one source layer's as they are.
bool Adapter::pools(size_t s, int64_t owner) const {
  const LayerSpec& target = target_.stacks[s].layers[static_cast<size_t>(owner)];
  const int64_t own = from_[s].layers[static_cast<size_t>(owner)];
  const std::vector<int64_t> layers = pooled_layers(s, owner);
  const LayerSpec& source = from_[s].stack->layers[static_cast<size_t>(own)];
  return layers != std::vector<int64_t>{own} ||
         source.attention.kv_heads != target.attention.kv_heads ||
         source.attention.separate_kv_norm != target.attention.separate_kv_norm;
}

// Gain and shift of a source layer's K/V input.
Values Adapter::gain(const StackSpec& stack, int64_t layer) const {
  const std::optional<Values> own = read(stack, Role::kKvNorm, layer);
  return own ? *own : read(stack, Role::kAttentionNorm, layer).value();
}
Values Adapter::shift(const StackSpec& stack, int64_t layer) const {
  const bool own = read(stack, Role::kKvNorm, layer).has_value();
  return read(stack, own ? Role::kKvNormBias : Role::kAttentionNormBias, layer).value_or(Values{});
}

Values Adapter::folded(const StackSpec& stack, Role weight, int64_t layer,
                       const Values& gain) const {
  std::optional<Values> w = read(stack, weight, layer);
  require(w.has_value(), ErrorCode::kRequest, "'{}' is not in the model",
          parameter_name(stack, weight, layer));
  for (size_t i = 0; i < w->size(); ++i) (*w)[i] *= gain[i % gain.size()];
  return *w;
}

// W(γ∘n + β) + b = (W∘γ)n + (Wβ + b).
Values Adapter::folded_bias(const StackSpec& stack, Role weight, Role bias, int64_t layer,
                            const Values& shift) const {
  Values out = read(stack, bias, layer).value();
  const Values w = read(stack, weight, layer).value();
  for (size_t r = 0; r < out.size(); ++r) {
    for (size_t c = 0; c < shift.size(); ++c) out[r] += w[r * shift.size() + c] * shift[c];
  }
  return out;
}

// Mean over the group's source layers and over neighbouring KV heads.
Values Adapter::pooled(const ParameterSpec& p) const {
  const auto s = static_cast<size_t>(p.stack);
  const StackSpec& stack = *from_[s].stack;
  const std::vector<int64_t> layers = pooled_layers(s, p.layer);
  const AttentionSpec& now = target_.stacks[s].layers[static_cast<size_t>(p.layer)].attention;
  const AttentionSpec& then = stack.layers[static_cast<size_t>(layers[0])].attention;
  require(!now.latent() && !then.latent(), ErrorCode::kRequest,
          "'{}': latents of several layers cannot be pooled", p.name);
  require(then.kv_heads % now.kv_heads == 0, ErrorCode::kRequest,
          "'{}': {} KV heads do not pool into {}", p.name, then.kv_heads, now.kv_heads);
  const int64_t share = then.kv_heads / now.kv_heads;
  const int64_t head = p.numel() / now.kv_heads;
  Values out(static_cast<size_t>(p.numel()), 0.0);
  for (int64_t layer : layers) {
    const auto bias_of = [&](Role weight) {
      return folded_bias(stack, weight, p.role, layer, shift(stack, layer));
    };
    const Values own = p.role == Role::kKeyBias ? bias_of(Role::kKey)
                       : p.role == Role::kValueBias
                           ? bias_of(Role::kValue)
                           : folded(stack, p.role, layer, gain(stack, layer));
    require(static_cast<int64_t>(own.size()) == p.numel() * share, ErrorCode::kRequest,
            "'{}': layer {} of the model has another shape", p.name, layer);
    const double weight = 1.0 / static_cast<double>(share * static_cast<int64_t>(layers.size()));
    for (int64_t h = 0; h < then.kv_heads; ++h) {
      for (int64_t i = 0; i < head; ++i) {
        out[static_cast<size_t>(h / share * head + i)] +=
            weight * own[static_cast<size_t>(h * head + i)];
      }
    }
  }
  return out;
}

// Tensors of an owner whose K/V are pooled; nothing: copied as any other.
std::optional<Values> Adapter::owner_tensor(const ParameterSpec& p) const {
  const auto s = static_cast<size_t>(p.stack);
  const StackSpec& stack = *from_[s].stack;
  const int64_t own = from_[s].layers[static_cast<size_t>(p.layer)];
  const bool separate =
      target_.stacks[s].layers[static_cast<size_t>(p.layer)].attention.separate_kv_norm;
  const Values ones(static_cast<size_t>(p.numel()), 1.0), zeros(ones.size(), 0.0);
  switch (p.role) {
    case Role::kKey:
    case Role::kValue: {
      const Values beta = shift(stack, own);
      const bool shifted = std::any_of(beta.begin(), beta.end(), [](double b) { return b != 0; });
      require(!shifted || read(stack, Role::kKeyBias, own), ErrorCode::kRequest,
              "'{}': the norm's bias cannot be folded without attention.bias", p.name);
      return pooled(p);
    }
    case Role::kKeyBias:
    case Role::kValueBias:
      return pooled(p);
    case Role::kKvNorm:
      return ones;
    case Role::kKvNormBias:
      return zeros;
    case Role::kKeyNorm: {
      Values mean(zeros);
      const std::vector<int64_t> layers = pooled_layers(s, p.layer);
      for (int64_t layer : layers) {
        const Values g = read(stack, Role::kKeyNorm, layer).value();
        for (size_t i = 0; i < mean.size(); ++i) {
          mean[i] += g[i] / static_cast<double>(layers.size());
        }
      }
      return mean;
    }
    default:
      break;
  }
  if (separate) return std::nullopt;
  // K/V share the query's norm: its gain goes into W_q as well.
  if (p.role == Role::kAttentionNorm) return ones;
  if (p.role == Role::kAttentionNormBias) return zeros;
  if (p.role == Role::kQuery) {
    return folded(stack, Role::kQuery, own, read(stack, Role::kAttentionNorm, own).value());
  }
  if (p.role == Role::kQueryBias) {
    return folded_bias(stack, Role::kQuery, Role::kQueryBias, own,
                       read(stack, Role::kAttentionNormBias, own).value_or(Values{}));
  }
  return std::nullopt;
}

std::optional<Values> Adapter::layer_tensor(const ParameterSpec& p) const {
  const auto s = static_cast<size_t>(p.stack);
  const LayerSpec& layer = target_.stacks[s].layers[static_cast<size_t>(p.layer)];
  if (layer.kv_owner == p.layer && !layer.attention.latent() && pools(s, p.layer)) {
    if (std::optional<Values> values = owner_tensor(p)) return values;
  }
  return read(*from_[s].stack, p.role, from_[s].layers[static_cast<size_t>(p.layer)]);
}

ModelData Adapter::run() {
  ModelData out;
  out.spec = target_;
  // A Block Transformer cannot begin bare.
  out.start_token =
      target_.block ? std::optional<int64_t>(marker_token(source_)) : source_.start_token;
  out.stop_tokens = source_.stop_tokens;
  out.tokenizer_json = source_.tokenizer_json;
  out.chat_template = source_.chat_template;
  out.name = source_.name;
  out.kv_codec = {"fp32", "fp32"};
  for (const ParameterSpec& p : parameters(target_)) {
    const bool global = p.stack == 0 && p.layer < 0;
    std::optional<Values> values;
    if (p.layer >= 0) {
      values = layer_tensor(p);
    } else if (to_blocks_ && p.role == Role::kBlockEmbedding) {
      values = read(*from_[0].stack, Role::kEmbedding);
    } else {
      values = to_blocks_ && global ? embedder(p) : copy(p);
    }
    require(values.has_value(), ErrorCode::kRequest, "'{}' has nothing to come from in the model",
            p.name);
    require(static_cast<int64_t>(values->size()) == p.numel(), ErrorCode::kRequest,
            "'{}': the model's has {} elements, the configuration's {}", p.name, values->size(),
            p.numel());
    const std::vector<float> floats(values->begin(), values->end());
    out.tensors[p.name] = make_dense(p.name, p.shape, floats);
  }
  validate(out, "adapted model");
  return out;
}

}  // namespace

ModelData adapt_model(const ModelData& source, const ModelSpec& target,
                      const AdaptOptions& options) {
  return Adapter(source, target, options).run();
}

}  // namespace ashlar

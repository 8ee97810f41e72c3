#pragma once

#include <map>
#include <string>

#include "models/spec/parameters.h"
#include "package/format/rotation.h"
#include "tests/reference/layers.h"

// A slow forward pass written from the equations (Block Transformer: arXiv 2406.02657; CLA:
// 2405.12981; latent attention: 2405.04434 eqs. 9–19; online rotations: QuaRot, 2404.00456), with
// no cache and no sharing of code with the engine or the trainer.

namespace ashlar::test {

template <typename Real>
using Weights = std::map<std::string, std::vector<Real>>;

template <typename Real>
class ReferenceModel {
 public:
  ReferenceModel(ModelSpec spec, Weights<Real> weights, RotationManifest rotation = {})
      : spec_(std::move(spec)), weights_(std::move(weights)), rotation_(std::move(rotation)) {}

  /// Row i: logits after token i. A Block Transformer gets a block of `start` in front.
  Matrix<Real> logits(const std::vector<int32_t>& tokens, int32_t start) const {
    if (!spec_.block) return decoder_logits(tokens, {});
    Matrix<Real> rows = block_predictions(tokens, start);
    rows.erase(rows.begin());
    return rows;
  }

  /// The same for a decoder whose queries see rows from first[i] on only (document masks).
  Matrix<Real> masked_logits(const std::vector<int32_t>& tokens,
                             const std::vector<size_t>& first) const {
    return decoder_logits(tokens, first);
  }

  /// Row i: logits of token i itself, from the start marker (one `start`, or a block of them) and
  /// the tokens before it; one row more than there are tokens.
  Matrix<Real> predictions(const std::vector<int32_t>& tokens, int32_t start) const {
    if (spec_.block) return block_predictions(tokens, start);
    std::vector<int32_t> text = {start};
    text.insert(text.end(), tokens.begin(), tokens.end());
    return decoder_logits(text, {});
  }

 private:
  using Role = ParameterRole;

  /// Keys and values of one owner layer, by head and row.
  struct Kv {
    std::vector<Matrix<Real>> keys, values;
  };

  const std::vector<Real>& w(const StackSpec& s, Role role, int64_t layer = -1) const {
    return weights_.at(parameter_name(s, role, layer));
  }
  bool has(const StackSpec& s, Role role, int64_t layer) const {
    return weights_.contains(parameter_name(s, role, layer));
  }
  StackRotation rotation(size_t stack) const {
    return rotation_.stacks.empty() ? StackRotation{} : rotation_.stacks[stack];
  }

  Vector<Real> linear(const StackSpec& s, Role weight, Role bias, int64_t layer,
                      const Vector<Real>& x) const {
    Vector<Real> y = times(w(s, weight, layer), x);
    if (has(s, bias, layer)) add(y, w(s, bias, layer));
    return y;
  }

  Vector<Real> norm(const StackSpec& s, Role gain, Role bias, int64_t layer, const NormSpec& spec,
                    const Vector<Real>& x) const {
    if (spec.kind == NormKind::kRmsNorm) return rms_norm(x, w(s, gain, layer), spec.eps);
    Vector<Real> y = layer_norm(x, w(s, gain, layer), spec.eps);
    if (spec.bias) add(y, w(s, bias, layer));
    return y;
  }

  static Vector<Real> slice(const Vector<Real>& x, int64_t begin, int64_t count) {
    const auto first = x.begin() + static_cast<std::ptrdiff_t>(begin);
    return {first, first + static_cast<std::ptrdiff_t>(count)};
  }

  void norm_heads(Vector<Real>& x, int64_t dim, const Vector<Real>& gain, double eps) const {
    for (int64_t base = 0; base < static_cast<int64_t>(x.size()); base += dim) {
      const Vector<Real> y = rms_norm(slice(x, base, dim), gain, eps);
      std::copy(y.begin(), y.end(), x.begin() + static_cast<std::ptrdiff_t>(base));
    }
  }

  static void each_head(Vector<Real>& x, int64_t dim) {
    for (size_t base = 0; base < x.size(); base += static_cast<size_t>(dim)) {
      hadamard(x, base, dim, 1);
    }
  }

  Kv project_kv(size_t index, int64_t l, const Matrix<Real>& x) const {
    const StackSpec& stack = spec_.stacks[index];
    const LayerSpec& layer = stack.layers[static_cast<size_t>(l)];
    const AttentionSpec& a = layer.attention;
    Kv kv{std::vector<Matrix<Real>>(static_cast<size_t>(a.kv_heads)), {}};
    kv.values = kv.keys;
    for (size_t t = 0; t < x.size(); ++t) {
      Vector<Real> h = x[t];
      if (a.separate_kv_norm) {
        h = norm(stack, Role::kKvNorm, Role::kKvNormBias, l, layer.norm, h);
      } else if (layer.residual != ResidualKind::kPost) {
        h = norm(stack, Role::kAttentionNorm, Role::kAttentionNormBias, l, layer.norm, h);
      }
      const auto position = static_cast<int64_t>(t);
      if (a.latent()) {
        latent_kv(stack, layer, l, h, position, kv);
        continue;
      }
      Vector<Real> k = linear(stack, Role::kKey, Role::kKeyBias, l, h);
      if (a.qk_norm) norm_heads(k, a.head_dim, w(stack, Role::kKeyNorm, l), layer.norm.eps);
      turn(k, a.head_dim, 0, a.rope, position);
      if (rotation(index).keys) each_head(k, a.head_dim);
      const Vector<Real> v = linear(stack, Role::kValue, Role::kValueBias, l, h);
      for (int64_t g = 0; g < a.kv_heads; ++g) {
        kv.keys[static_cast<size_t>(g)].push_back(slice(k, g * a.head_dim, a.head_dim));
        kv.values[static_cast<size_t>(g)].push_back(slice(v, g * a.head_dim, a.head_dim));
      }
    }
    return kv;
  }

  // c = norm(W_c·h); per head k = [W_uk·c, RoPE(W_kr·h)], v = W_uv·c.
  void latent_kv(const StackSpec& stack, const LayerSpec& layer, int64_t l, const Vector<Real>& h,
                 int64_t position, Kv& kv) const {
    const AttentionSpec& a = layer.attention;
    const Vector<Real> down = times(w(stack, Role::kLatent, l), h);
    const Vector<Real> c =
        rms_norm(slice(down, 0, a.latent_dim), w(stack, Role::kLatentNorm, l), layer.norm.eps);
    Vector<Real> shared = slice(down, a.latent_dim, a.rope.dim);
    turn(shared, a.rope.dim, 0, a.rope, position);
    const Vector<Real> k = times(w(stack, Role::kKeyUp, l), c);
    const Vector<Real> v = times(w(stack, Role::kValueUp, l), c);
    for (int64_t head = 0; head < a.heads; ++head) {
      Vector<Real> key = slice(k, head * a.head_dim, a.head_dim);
      key.insert(key.end(), shared.begin(), shared.end());
      kv.keys[static_cast<size_t>(head)].push_back(key);
      kv.values[static_cast<size_t>(head)].push_back(
          slice(v, head * a.latent_value_dim, a.latent_value_dim));
    }
  }

  Vector<Real> query(size_t index, int64_t l, const Vector<Real>& h, int64_t position) const {
    const StackSpec& stack = spec_.stacks[index];
    const LayerSpec& layer = stack.layers[static_cast<size_t>(l)];
    const AttentionSpec& a = layer.attention;
    Vector<Real> input = h;
    if (a.query_latent_dim > 0) {
      input = rms_norm(times(w(stack, Role::kQueryDown, l), h), w(stack, Role::kQueryDownNorm, l),
                       layer.norm.eps);
    }
    Vector<Real> q = linear(stack, Role::kQuery, Role::kQueryBias, l, input);
    if (a.qk_norm) norm_heads(q, a.head_dim, w(stack, Role::kQueryNorm, l), layer.norm.eps);
    turn(q, a.query_dim(), a.rope_offset(), a.rope, position);
    if (rotation(index).keys) each_head(q, a.head_dim);
    return q;
  }

  // What attention of row t adds to the stream; `first` is the oldest row it may see.
  Vector<Real> attention(size_t index, int64_t l, const Vector<Real>& h, size_t t, size_t first,
                         size_t last, const Kv& kv) const {
    const StackSpec& stack = spec_.stacks[index];
    const AttentionSpec& a = stack.layers[static_cast<size_t>(l)].attention;
    const Vector<Real> q = query(index, l, h, static_cast<int64_t>(t));
    const Real scale = Real(1) / std::sqrt(Real(a.query_dim()));
    if (a.window > 0 && last + 1 > first + static_cast<size_t>(a.window)) {
      first = last + 1 - static_cast<size_t>(a.window);
    }
    Vector<Real> out;
    for (int64_t head = 0; head < a.heads; ++head) {
      const auto g = static_cast<size_t>(head / (a.heads / a.kv_heads));
      const Real* sink = a.sinks ? &w(stack, Role::kSinks, l)[static_cast<size_t>(head)] : nullptr;
      const Vector<Real> mix = softmax_mix(slice(q, head * a.query_dim(), a.query_dim()),
                                           kv.keys[g], kv.values[g], first, last, scale, sink);
      out.insert(out.end(), mix.begin(), mix.end());
    }
    if (rotation(index).heads) hadamard(out, 0, a.heads, a.value_dim());
    return linear(stack, Role::kAttentionOut, Role::kAttentionOutBias, l, out);
  }

  Vector<Real> cross_attention(const StackSpec& stack, int64_t l, const Vector<Real>& x,
                               const Matrix<Real>& context) const {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(l)];
    const AttentionSpec& a = layer.attention;
    const Vector<Real> h = norm(stack, Role::kCrossNorm, Role::kCrossNormBias, l, layer.norm, x);
    const Vector<Real> q = linear(stack, Role::kCrossQuery, Role::kCrossQueryBias, l, h);
    Matrix<Real> k, v;
    for (const auto& row : context) {
      k.push_back(linear(stack, Role::kCrossKey, Role::kCrossKeyBias, l, row));
      v.push_back(linear(stack, Role::kCrossValue, Role::kCrossValueBias, l, row));
    }
    Vector<Real> out;
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t g = head / (a.heads / a.kv_heads);
      Matrix<Real> keys, values;
      for (size_t j = 0; j < k.size(); ++j) {
        keys.push_back(slice(k[j], g * a.head_dim, a.head_dim));
        values.push_back(slice(v[j], g * a.head_dim, a.head_dim));
      }
      const Vector<Real> mix =
          softmax_mix(slice(q, head * a.head_dim, a.head_dim), keys, values, 0, k.size() - 1,
                      Real(1) / std::sqrt(Real(a.head_dim)), static_cast<const Real*>(nullptr));
      out.insert(out.end(), mix.begin(), mix.end());
    }
    return linear(stack, Role::kCrossOut, Role::kCrossOutBias, l, out);
  }

  Vector<Real> feed_forward(size_t index, int64_t l, const Vector<Real>& h) const {
    const StackSpec& stack = spec_.stacks[index];
    const FfnSpec& ffn = stack.layers[static_cast<size_t>(l)].ffn;
    const Vector<Real> up = linear(stack, Role::kUp, Role::kUpBias, l, h);
    Vector<Real> inner = ffn.gated() ? linear(stack, Role::kGate, Role::kGateBias, l, h) : up;
    for (size_t i = 0; i < inner.size(); ++i) {
      inner[i] = activation(ffn.kind, inner[i]) * (ffn.gated() ? up[i] : Real(1));
    }
    if (rotation(index).down) hadamard(inner, 0, ffn.d_ff, 1);
    return linear(stack, Role::kDown, Role::kDownBias, l, inner);
  }

  // `first`: per row the oldest row it sees; `context`: rows of cross-attention.
  void run_stack(size_t index, Matrix<Real>& x, const std::vector<size_t>& first = {},
                 const Matrix<Real>& context = {}) const {
    const StackSpec& stack = spec_.stacks[index];
    const bool both_ways = stack.role == StackRole::kEncoder;
    std::map<int64_t, Kv> shared;  // by owner layer
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      const LayerSpec& layer = stack.layers[l];
      const auto li = static_cast<int64_t>(l);
      if (layer.kv_owner == li) shared[li] = project_kv(index, li, x);
      const Kv& kv = shared.at(layer.kv_owner);
      for (size_t t = 0; t < x.size(); ++t) {
        const size_t last = both_ways ? x.size() - 1 : t;
        const auto attend = [&](const Vector<Real>& h) {
          return attention(index, li, h, t, first.empty() ? 0 : first[t], last, kv);
        };
        finish_layer(index, li, x[t], attend, context);
      }
    }
  }

  template <typename Attend>
  void finish_layer(size_t index, int64_t l, Vector<Real>& x, const Attend& attend,
                    const Matrix<Real>& context) const {
    const StackSpec& stack = spec_.stacks[index];
    const LayerSpec& layer = stack.layers[static_cast<size_t>(l)];
    const auto first_norm = [&](const Vector<Real>& v) {
      return norm(stack, Role::kAttentionNorm, Role::kAttentionNormBias, l, layer.norm, v);
    };
    const auto second_norm = [&](const Vector<Real>& v) {
      return norm(stack, Role::kFfnNorm, Role::kFfnNormBias, l, layer.norm, v);
    };
    if (layer.residual == ResidualKind::kPost) {
      add(x, attend(x));
      x = first_norm(x);
      add(x, feed_forward(index, l, x));
      x = second_norm(x);
      return;
    }
    const Vector<Real> before = x;
    const bool parallel = layer.residual == ResidualKind::kParallel;
    add(x, attend(first_norm(before)));
    if (!context.empty()) add(x, cross_attention(stack, l, parallel ? before : x, context));
    add(x, feed_forward(index, l, second_norm(parallel ? before : x)));
  }

  Vector<Real> embedding(const StackSpec& stack, Role role, int64_t width, int32_t token) const {
    return slice(w(stack, role), token * width, width);
  }

  Vector<Real> head(const Vector<Real>& x) const {
    const StackSpec& stack = spec_.token_stack();
    const auto h = norm(stack, Role::kFinalNorm, Role::kFinalNormBias, -1, stack.final_norm, x);
    auto out = times(w(stack, spec_.tied_head ? Role::kEmbedding : Role::kHead), h);
    const Real cap = Real(spec_.logit_softcap);
    if (cap > 0) {
      for (Real& v : out) v = cap * std::tanh(v / cap);
    }
    return out;
  }

  Matrix<Real> decoder_logits(const std::vector<int32_t>& tokens,
                              const std::vector<size_t>& first) const {
    const StackSpec& stack = spec_.stacks[0];
    Matrix<Real> x;
    for (int32_t token : tokens) {
      x.push_back(embedding(stack, Role::kEmbedding, stack.d_model, token));
    }
    run_stack(0, x, first);
    for (auto& row : x) row = head(row);
    return x;
  }

  // The vector of one block of tokens.
  Vector<Real> embed_block(const std::vector<int32_t>& block) const {
    const StackSpec& global = spec_.stacks[0];
    const BlockSpec& b = *spec_.block;
    Vector<Real> x;
    const auto append = [&](const Vector<Real>& v) { x.insert(x.end(), v.begin(), v.end()); };
    if (b.embedder == EmbedderKind::kEncoder) {
      for (const Vector<Real>& row : encode_block(block)) append(row);
    } else {
      const int64_t width =
          b.embedder == EmbedderKind::kLookup ? global.d_model / b.length : b.embedding_dim;
      for (int32_t token : block) append(embedding(global, Role::kBlockEmbedding, width, token));
    }
    if (b.embedder != EmbedderKind::kLookup) {
      return linear(global, Role::kProjection, Role::kProjectionBias, -1, x);
    }
    if (rotation(0).slots) hadamard(x, 0, b.length, global.d_model / b.length);
    return x;
  }

  // Outputs at the CLS tokens, or at all tokens without any.
  Matrix<Real> encode_block(const std::vector<int32_t>& block) const {
    const StackSpec& encoder = spec_.stacks[2];
    const int64_t cls = spec_.block->cls_tokens, d = encoder.d_model;
    Matrix<Real> x;
    for (int64_t i = 0; i < cls; ++i) x.push_back(slice(w(encoder, Role::kClsTokens), i * d, d));
    for (int32_t token : block) x.push_back(embedding(encoder, Role::kEmbedding, d, token));
    for (size_t i = 0; i < x.size(); ++i) {
      add(x[i], slice(w(encoder, Role::kPositions), static_cast<int64_t>(i) * d, d));
      x[i] = norm(encoder, Role::kFinalNorm, Role::kFinalNormBias, -1, encoder.final_norm, x[i]);
    }
    run_stack(2, x);
    if (cls > 0) x.resize(static_cast<size_t>(cls));
    return x;
  }

  // The token decoder of one block after `state`: its logits, row r for token r of the block.
  Matrix<Real> local_logits(const Vector<Real>& state, const std::vector<int32_t>& tokens,
                            int32_t start) const {
    const StackSpec& local = spec_.stacks[1];
    const BlockSpec& b = *spec_.block;
    const auto flat = linear(spec_.stacks[0], Role::kExpansion, Role::kExpansionBias, -1, state);
    Matrix<Real> context, x;
    for (int64_t r = 0; r < b.context_rows(); ++r) {
      context.push_back(slice(flat, r * local.d_model, local.d_model));
    }
    const auto token = [&](int32_t id) {
      return embedding(local, Role::kEmbedding, local.d_model, id);
    };
    size_t skip = 0;
    if (b.context == ContextKind::kPrefix) {
      x = context;
      skip = x.size() - 1;
    } else {
      x.push_back(token(start));
    }
    for (size_t i = 0; i < tokens.size() && i + 1 < static_cast<size_t>(b.length); ++i) {
      x.push_back(token(tokens[i]));
    }
    if (b.context == ContextKind::kSummation) {
      for (size_t i = 0; i < x.size(); ++i) add(x[i], context[i]);
    }
    run_stack(1, x, {}, b.context == ContextKind::kCrossAttention ? context : Matrix<Real>{});
    Matrix<Real> out;
    for (size_t r = skip; r < x.size(); ++r) out.push_back(head(x[r]));
    return out;
  }

  Matrix<Real> block_predictions(const std::vector<int32_t>& tokens, int32_t start) const {
    const StackSpec& global = spec_.stacks[0];
    const auto length = static_cast<size_t>(spec_.block->length);
    std::vector<int32_t> text(length, start);
    text.insert(text.end(), tokens.begin(), tokens.end());
    Matrix<Real> states;
    for (size_t b = 0; (b + 1) * length <= text.size(); ++b) {
      const auto begin = text.begin() + static_cast<std::ptrdiff_t>(b * length);
      states.push_back(embed_block({begin, begin + static_cast<std::ptrdiff_t>(length)}));
    }
    run_stack(0, states);
    Matrix<Real> out(tokens.size() + 1);
    for (size_t b = 0; b < states.size(); ++b) {
      const auto state =
          norm(global, Role::kFinalNorm, Role::kFinalNormBias, -1, global.final_norm, states[b]);
      const size_t begin = b * length, end = std::min(tokens.size(), begin + length);
      const std::vector<int32_t> own(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                     tokens.begin() + static_cast<std::ptrdiff_t>(end));
      const Matrix<Real> rows = local_logits(state, own, start);
      for (size_t r = 0; r < rows.size() && begin + r < out.size(); ++r) out[begin + r] = rows[r];
    }
    return out;
  }

  ModelSpec spec_;
  Weights<Real> weights_;
  RotationManifest rotation_;
};

}  // namespace ashlar::test

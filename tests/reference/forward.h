#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kernels/hadamard.h"
#include "models/spec/parameters.h"
#include "package/format/rotation.h"

// A slow forward pass written from the equations (RMSNorm, RoPE, softmax attention, SwiGLU; Block
// Transformer: arXiv 2406.02657; online rotations: QuaRot, arXiv 2404.00456), one number at a time,
// with no cache and no sharing of code with the engine or the trainer.

namespace ashlar::test {

template <typename Real>
using Weights = std::map<std::string, std::vector<Real>>;
template <typename Real>
using Matrix = std::vector<std::vector<Real>>;

template <typename Real>
class ReferenceModel {
 public:
  ReferenceModel(ModelSpec spec, Weights<Real> weights, RotationManifest rotation = {})
      : spec_(std::move(spec)), weights_(std::move(weights)), rotation_(std::move(rotation)) {}

  /// Row i: logits after token i. A Block Transformer gets a block of `start` in front.
  Matrix<Real> logits(const std::vector<int32_t>& tokens, int32_t start) const {
    if (!spec_.block) return decoder_logits(tokens);
    Matrix<Real> rows = block_predictions(tokens, start);
    rows.erase(rows.begin());
    return rows;
  }

  /// Row i: logits of token i itself, from the start marker (one `start`, or a block of them) and
  /// the tokens before it; one row more than there are tokens.
  Matrix<Real> predictions(const std::vector<int32_t>& tokens, int32_t start) const {
    if (spec_.block) return block_predictions(tokens, start);
    std::vector<int32_t> text = {start};
    text.insert(text.end(), tokens.begin(), tokens.end());
    return decoder_logits(text);
  }

 private:
  const std::vector<Real>& w(const std::string& name) const { return weights_.at(name); }
  const std::vector<Real>& w(const StackSpec& s, ParameterRole role, int64_t layer = -1) const {
    return w(parameter_name(s, role, layer));
  }
  StackRotation rotation(size_t stack) const {
    return rotation_.stacks.empty() ? StackRotation{} : rotation_.stacks[stack];
  }

  static std::vector<Real> times(const std::vector<Real>& matrix, const std::vector<Real>& x) {
    const size_t in = x.size(), out = matrix.size() / in;
    std::vector<Real> y(out, Real(0));
    for (size_t n = 0; n < out; ++n) {
      for (size_t k = 0; k < in; ++k) y[n] += matrix[n * in + k] * x[k];
    }
    return y;
  }

  static std::vector<Real> norm(const std::vector<Real>& x, const std::vector<Real>& gain,
                                double eps) {
    Real square = 0;
    for (Real v : x) square += v * v;
    const Real scale = Real(1) / std::sqrt(square / Real(x.size()) + Real(eps));
    std::vector<Real> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * gain[i];
    return y;
  }

  // x (viewed as [n, inner]) ← Σ_a x[a, :]·H[a, b]/√n, by the dense ±1 matrix.
  static void hadamard(std::vector<Real>& x, size_t offset, int64_t n, int64_t inner) {
    const std::vector<int8_t> h = hadamard_matrix(n);
    std::vector<Real> y(static_cast<size_t>(n * inner), Real(0));
    for (int64_t b = 0; b < n; ++b) {
      for (int64_t i = 0; i < inner; ++i) {
        Real sum = 0;
        for (int64_t a = 0; a < n; ++a) {
          sum += x[offset + static_cast<size_t>(a * inner + i)] *
                 Real(h[static_cast<size_t>(a * n + b)]);
        }
        y[static_cast<size_t>(b * inner + i)] = sum / std::sqrt(Real(n));
      }
    }
    std::copy(y.begin(), y.end(), x.begin() + static_cast<std::ptrdiff_t>(offset));
  }

  static void rope(std::vector<Real>& x, int64_t dim, double theta, int64_t position) {
    const int64_t half = dim / 2;
    for (size_t base = 0; base < x.size(); base += static_cast<size_t>(dim)) {
      for (int64_t i = 0; i < half; ++i) {
        const Real angle = Real(position) * std::pow(Real(theta), Real(-2 * i) / Real(dim));
        Real& a = x[base + static_cast<size_t>(i)];
        Real& b = x[base + static_cast<size_t>(i + half)];
        const Real c = std::cos(angle), s = std::sin(angle), old = a;
        a = old * c - b * s;
        b = b * c + old * s;
      }
    }
  }

  void run_stack(size_t index, Matrix<Real>& x) const {
    const StackSpec& stack = spec_.stacks[index];
    const StackRotation online = rotation(index);
    std::map<int64_t, Matrix<Real>> keys, values;  // by owner layer
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      const LayerSpec& layer = stack.layers[l];
      const AttentionSpec& a = layer.attention;
      const auto li = static_cast<int64_t>(l);
      if (layer.kv_owner == li) {
        for (size_t t = 0; t < x.size(); ++t) {
          const auto& gain =
              w(stack, a.separate_kv_norm ? ParameterRole::kKvNorm : ParameterRole::kAttentionNorm,
                li);
          const auto h = norm(x[t], gain, layer.norm.eps);
          auto k = times(w(stack, ParameterRole::kKey, li), h);
          rope(k, a.head_dim, a.rope_theta, static_cast<int64_t>(t));
          if (online.keys) each_head(k, a.head_dim);
          keys[li].push_back(k);
          values[li].push_back(times(w(stack, ParameterRole::kValue, li), h));
        }
      }
      for (size_t t = x.size(); t-- > 0;) {
        attend(stack, layer, li, online, keys[layer.kv_owner], values[layer.kv_owner], t, x[t]);
      }
      for (auto& row : x) feed_forward(stack, layer, li, online, row);
    }
  }

  static void each_head(std::vector<Real>& x, int64_t dim) {
    for (size_t base = 0; base < x.size(); base += static_cast<size_t>(dim)) {
      hadamard(x, base, dim, 1);
    }
  }

  void attend(const StackSpec& stack, const LayerSpec& layer, int64_t l,
              const StackRotation& online, const Matrix<Real>& keys, const Matrix<Real>& values,
              size_t t, std::vector<Real>& x) const {
    const AttentionSpec& a = layer.attention;
    const auto h = norm(x, w(stack, ParameterRole::kAttentionNorm, l), layer.norm.eps);
    auto q = times(w(stack, ParameterRole::kQuery, l), h);
    rope(q, a.head_dim, a.rope_theta, static_cast<int64_t>(t));
    if (online.keys) each_head(q, a.head_dim);
    const auto dim = static_cast<size_t>(a.head_dim);
    std::vector<Real> out(q.size(), Real(0));
    for (size_t head = 0; head < static_cast<size_t>(a.heads); ++head) {
      const size_t kv = head / static_cast<size_t>(a.heads / a.kv_heads);
      std::vector<Real> p(t + 1);
      Real top = -INFINITY, total = 0;
      for (size_t j = 0; j <= t; ++j) {
        Real dot = 0;
        for (size_t i = 0; i < dim; ++i) dot += q[head * dim + i] * keys[j][kv * dim + i];
        p[j] = dot / std::sqrt(Real(dim));
        top = std::max(top, p[j]);
      }
      for (Real& v : p) total += v = std::exp(v - top);
      for (size_t j = 0; j <= t; ++j) {
        for (size_t i = 0; i < dim; ++i) {
          out[head * dim + i] += p[j] / total * values[j][kv * dim + i];
        }
      }
    }
    if (online.heads) hadamard(out, 0, a.heads, a.head_dim);
    const auto delta = times(w(stack, ParameterRole::kAttentionOut, l), out);
    for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
  }

  void feed_forward(const StackSpec& stack, const LayerSpec& layer, int64_t l,
                    const StackRotation& online, std::vector<Real>& x) const {
    const auto h = norm(x, w(stack, ParameterRole::kFfnNorm, l), layer.norm.eps);
    auto gate = times(w(stack, ParameterRole::kGate, l), h);
    const auto up = times(w(stack, ParameterRole::kUp, l), h);
    for (size_t i = 0; i < gate.size(); ++i) {
      gate[i] = gate[i] / (Real(1) + std::exp(-gate[i])) * up[i];
    }
    if (online.down) hadamard(gate, 0, layer.ffn.d_ff, 1);
    const auto delta = times(w(stack, ParameterRole::kDown, l), gate);
    for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
  }

  std::vector<Real> embedding(const StackSpec& stack, ParameterRole role, int64_t width,
                              int32_t token) const {
    const auto& table = w(stack, role);
    const auto begin = table.begin() + token * width;
    return {begin, begin + width};
  }

  std::vector<Real> head(const std::vector<Real>& x) const {
    const StackSpec& stack = spec_.token_stack();
    const auto h = norm(x, w(stack, ParameterRole::kFinalNorm), stack.final_norm.eps);
    return times(w(stack, spec_.tied_head ? ParameterRole::kEmbedding : ParameterRole::kHead), h);
  }

  Matrix<Real> decoder_logits(const std::vector<int32_t>& tokens) const {
    const StackSpec& stack = spec_.stacks[0];
    Matrix<Real> x;
    for (int32_t token : tokens) {
      x.push_back(embedding(stack, ParameterRole::kEmbedding, stack.d_model, token));
    }
    run_stack(0, x);
    for (auto& row : x) row = head(row);
    return x;
  }

  Matrix<Real> block_predictions(const std::vector<int32_t>& tokens, int32_t start) const {
    const StackSpec &global = spec_.stacks[0], &local = spec_.stacks[1];
    const auto length = static_cast<size_t>(spec_.block->length);
    const auto prefix = static_cast<size_t>(spec_.block->prefix_length);
    const auto width = static_cast<int64_t>(static_cast<size_t>(global.d_model) / length);
    std::vector<int32_t> text(length, start);
    text.insert(text.end(), tokens.begin(), tokens.end());
    Matrix<Real> states;
    for (size_t b = 0; (b + 1) * length <= text.size(); ++b) {
      std::vector<Real> x;
      for (size_t s = 0; s < length; ++s) {
        const auto e =
            embedding(global, ParameterRole::kBlockEmbedding, width, text[b * length + s]);
        x.insert(x.end(), e.begin(), e.end());
      }
      if (rotation(0).slots) hadamard(x, 0, static_cast<int64_t>(length), width);
      states.push_back(x);
    }
    run_stack(0, states);
    Matrix<Real> out(tokens.size() + 1);
    for (size_t b = 0; b < states.size(); ++b) {
      const auto state =
          norm(states[b], w(global, ParameterRole::kFinalNorm), global.final_norm.eps);
      auto flat = times(w(global, ParameterRole::kExpansion), state);
      const auto& bias = w(global, ParameterRole::kExpansionBias);
      for (size_t i = 0; i < flat.size(); ++i) flat[i] += bias[i];
      Matrix<Real> x;
      const auto d = static_cast<size_t>(local.d_model);
      for (size_t p = 0; p < prefix; ++p) {
        x.emplace_back(flat.begin() + static_cast<std::ptrdiff_t>(p * d),
                       flat.begin() + static_cast<std::ptrdiff_t>((p + 1) * d));
      }
      for (size_t k = b * length; k + 1 < (b + 1) * length && k < tokens.size(); ++k) {
        x.push_back(embedding(local, ParameterRole::kEmbedding, local.d_model, tokens[k]));
      }
      run_stack(1, x);
      for (size_t r = 0; prefix - 1 + r < x.size(); ++r) {
        const size_t t = b * length + r;
        if (t <= tokens.size()) out[t] = head(x[prefix - 1 + r]);
      }
    }
    return out;
  }

  ModelSpec spec_;
  Weights<Real> weights_;
  RotationManifest rotation_;
};

}  // namespace ashlar::test

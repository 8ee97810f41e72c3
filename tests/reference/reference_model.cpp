#include "tests/reference/reference_model.h"

#include <cmath>

namespace ashlar::reference {
namespace {

using Vector = std::vector<double>;
using Sequence = std::vector<Vector>;  // one vector per position

// y = W x with W [out, in].
Vector matvec(const Vector& w, const Vector& x) {
  const size_t out = w.size() / x.size();
  Vector y(out, 0.0);
  for (size_t o = 0; o < out; ++o) {
    for (size_t i = 0; i < x.size(); ++i) y[o] += w[o * x.size() + i] * x[i];
  }
  return y;
}

// x_i / sqrt(mean_j x_j² + eps) · g_i (arXiv 1910.07467).
Vector norm(const Vector& x, const Vector& gain, double eps) {
  double square = 0;
  for (double v : x) square += v * v;
  const double rms = std::sqrt(square / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / rms * gain[i];
  return y;
}

// Rotates each head's pair (i, i + E/2) by position·theta^(−2i/E) (arXiv 2104.09864, half-split).
Vector rope(Vector x, int64_t heads, int64_t dim, int64_t position, double theta) {
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(position) /
                           std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim));
      double& a = x[static_cast<size_t>(h * dim + i)];
      double& b = x[static_cast<size_t>(h * dim + i + dim / 2)];
      const double real = a * std::cos(angle) - b * std::sin(angle);
      const double imaginary = a * std::sin(angle) + b * std::cos(angle);
      a = real;
      b = imaginary;
    }
  }
  return x;
}

// Attention of one query over keys and values 0…position; head h reads KV head ⌊h·G/H⌋.
Vector attend(const Vector& q, const Sequence& keys, const Sequence& values, size_t position,
              const AttentionSpec& a) {
  Vector out(q.size(), 0.0);
  for (int64_t h = 0; h < a.heads; ++h) {
    const int64_t g = h * a.kv_heads / a.heads;
    Vector p(position + 1);
    double total = 0;
    for (size_t t = 0; t <= position; ++t) {
      double dot = 0;
      for (int64_t e = 0; e < a.head_dim; ++e) {
        dot += q[static_cast<size_t>(h * a.head_dim + e)] *
               keys[t][static_cast<size_t>(g * a.head_dim + e)];
      }
      p[t] = std::exp(dot / std::sqrt(static_cast<double>(a.head_dim)));
      total += p[t];
    }
    for (size_t t = 0; t <= position; ++t) {
      for (int64_t e = 0; e < a.head_dim; ++e) {
        out[static_cast<size_t>(h * a.head_dim + e)] +=
            p[t] / total * values[t][static_cast<size_t>(g * a.head_dim + e)];
      }
    }
  }
  return out;
}

void add(Vector& x, const Vector& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

// All layers and the final norm of one stack over a causal sequence.
Sequence run_stack(const StackSpec& stack, const Weights& w, Sequence x) {
  const std::string top = stack_name(stack.role);
  std::vector<Sequence> keys(stack.layers.size()), values(stack.layers.size());
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    const LayerSpec& layer = stack.layers[l];
    const AttentionSpec& a = layer.attention;
    const std::string name = top + ".layers." + std::to_string(l);
    const auto owner = static_cast<size_t>(layer.kv_owner);
    if (owner == l) {
      const Vector& kv_gain = w.at(a.separate_kv_norm ? name + ".self_attn.kv_layernorm.weight"
                                                      : name + ".input_layernorm.weight");
      for (size_t t = 0; t < x.size(); ++t) {
        const Vector input = norm(x[t], kv_gain, layer.norm.eps);
        keys[l].push_back(rope(matvec(w.at(name + ".self_attn.k_proj.weight"), input), a.kv_heads,
                               a.head_dim, static_cast<int64_t>(t), a.rope_theta));
        values[l].push_back(matvec(w.at(name + ".self_attn.v_proj.weight"), input));
      }
    }
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector input = norm(x[t], w.at(name + ".input_layernorm.weight"), layer.norm.eps);
      const Vector q = rope(matvec(w.at(name + ".self_attn.q_proj.weight"), input), a.heads,
                            a.head_dim, static_cast<int64_t>(t), a.rope_theta);
      add(x[t], matvec(w.at(name + ".self_attn.o_proj.weight"),
                       attend(q, keys[owner], values[owner], t, a)));
      const Vector ffn =
          norm(x[t], w.at(name + ".post_attention_layernorm.weight"), layer.norm.eps);
      const Vector gate = matvec(w.at(name + ".mlp.gate_proj.weight"), ffn);
      Vector hidden = matvec(w.at(name + ".mlp.up_proj.weight"), ffn);
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= gate[i] / (1 + std::exp(-gate[i]));
      add(x[t], matvec(w.at(name + ".mlp.down_proj.weight"), hidden));
    }
  }
  for (Vector& v : x) v = norm(v, w.at(top + ".norm.weight"), stack.final_norm.eps);
  return x;
}

Vector row(const Vector& table, int64_t id, int64_t width) {
  const auto first = table.begin() + id * width;
  return {first, first + width};
}

Vector head(const ModelSpec& spec, const Weights& w, const Vector& hidden) {
  const std::string tied =
      std::string(stack_name(spec.token_stack().role)) + ".embed_tokens.weight";
  return matvec(w.at(spec.tied_head ? tied : "lm_head.weight"), hidden);
}

Sequence decoder_rows(const ModelSpec& spec, const Weights& w, const std::vector<int64_t>& tokens) {
  Sequence x;
  for (int64_t id : tokens) {
    x.push_back(row(w.at("model.embed_tokens.weight"), id, spec.stacks[0].d_model));
  }
  Sequence out;
  for (const Vector& h : run_stack(spec.stacks[0], w, x)) out.push_back(head(spec, w, h));
  return out;
}

// Row r predicts token r of the text, r = 0…T.
Sequence block_rows(const ModelSpec& spec, const Weights& w, const std::vector<int64_t>& tokens,
                    int64_t eos) {
  const int64_t length = spec.block->length, prefix = spec.block->prefix_length;
  const StackSpec &global = spec.stacks[0], &local = spec.stacks[1];
  const auto count = static_cast<int64_t>(tokens.size());
  Sequence blocks;
  for (int64_t block = -1; block < count / length; ++block) {
    Vector x;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t id = block < 0 ? eos : tokens[static_cast<size_t>(block * length + i)];
      const Vector part = row(w.at("global.embed_tokens.weight"), id, global.d_model / length);
      x.insert(x.end(), part.begin(), part.end());
    }
    blocks.push_back(x);
  }
  const Sequence contexts = run_stack(global, w, blocks);
  Sequence out;
  for (int64_t block = 0; static_cast<int64_t>(out.size()) <= count; ++block) {
    Vector expanded = matvec(w.at("global.expansion.weight"), contexts[static_cast<size_t>(block)]);
    add(expanded, w.at("global.expansion.bias"));
    Sequence x;
    for (int64_t p = 0; p < prefix; ++p) x.push_back(row(expanded, p, local.d_model));
    for (int64_t i = 0; i + 1 < length && block * length + i < count; ++i) {
      x.push_back(row(w.at("local.embed_tokens.weight"),
                      tokens[static_cast<size_t>(block * length + i)], local.d_model));
    }
    const Sequence hidden = run_stack(local, w, x);
    for (size_t i = static_cast<size_t>(prefix - 1); i < hidden.size(); ++i) {
      if (static_cast<int64_t>(out.size()) <= count) out.push_back(head(spec, w, hidden[i]));
    }
  }
  return out;
}

}  // namespace

std::vector<double> logits(const ModelSpec& spec, const Weights& weights,
                           const std::vector<int64_t>& tokens, int64_t eos) {
  const bool decoder = spec.kind == ModelKind::kDecoder;
  const Sequence rows =
      decoder ? decoder_rows(spec, weights, tokens) : block_rows(spec, weights, tokens, eos);
  std::vector<double> out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Vector& r = rows[decoder ? i : i + 1];
    out.insert(out.end(), r.begin(), r.end());
  }
  return out;
}

std::vector<double> log_probabilities(const ModelSpec& spec, const Weights& weights,
                                      const std::vector<int64_t>& tokens, int64_t eos) {
  std::vector<int64_t> shifted = {eos};
  shifted.insert(shifted.end(), tokens.begin(), tokens.end() - 1);
  const Sequence rows = spec.kind == ModelKind::kDecoder ? decoder_rows(spec, weights, shifted)
                                                         : block_rows(spec, weights, tokens, eos);
  std::vector<double> out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    double sum = 0;
    for (double v : rows[i]) sum += std::exp(v);
    out.push_back(rows[i][static_cast<size_t>(tokens[i])] - std::log(sum));
  }
  return out;
}

}  // namespace ashlar::reference

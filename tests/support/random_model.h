#pragma once

#include <cmath>

#include "core/base/rng.h"
#include "package/format/model_data.h"

namespace ashlar::test {

/// A model of random weights in fp32. Norm gains are exp(N/2), far from 1, because gains of 1 hide
/// folding mistakes; biases are not zero.
inline ModelData random_model(const ModelSpec& spec, uint64_t seed) {
  ModelData model;
  model.spec = spec;
  model.start_token = 0;
  model.stop_tokens = {0};
  uint64_t stream = 0;
  for (const ParameterSpec& p : parameters(spec)) {
    const Philox rng(seed, stream++);
    std::vector<float> values(static_cast<size_t>(p.numel()));
    const double scale = p.is_linear() ? 1.0 / std::sqrt(static_cast<double>(p.shape[1])) : 1.0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double x = rng.normal(i);
      values[i] = static_cast<float>(p.is_norm() ? std::exp(x / 2) : scale * x);
    }
    model.tensors[p.name] = make_dense(p.name, p.shape, values);
  }
  return model;
}

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint64_t seed) {
  const Philox rng(seed, 77);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(
        static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), static_cast<uint64_t>(vocab))));
  }
  return tokens;
}

}  // namespace ashlar::test

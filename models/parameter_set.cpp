#include "models/parameter_set.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

// Standard deviation of a fresh tensor; 0 for constants.
double deviation(const ModelSpec& spec, const ParameterSpec& p, const InitSpec& init) {
  const StackSpec& stack = spec.stacks[static_cast<size_t>(p.stack)];
  const double ratio = init.width_ratio(stack.d_model);
  const double hidden = init.deviation / std::sqrt(ratio);
  switch (p.role) {
    case ParameterRole::kAttentionOut:
    case ParameterRole::kCrossOut:
    case ParameterRole::kDown:
      return init.scaled_outputs
                 ? hidden / std::sqrt(2.0 * static_cast<double>(stack.layers.size()))
                 : hidden;
    case ParameterRole::kHead:
      return init.deviation / ratio;
    case ParameterRole::kExpansion:
    case ParameterRole::kProjection:
      return 1.0 / std::sqrt(static_cast<double>(p.shape[1]));
    default:
      if (p.is_linear()) return hidden;
      return p.is_matrix() ? init.deviation : 0;
  }
}

}  // namespace

const at::Tensor& ParameterSet::at(const std::string& name) const {
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return tensors[i];
  }
  fail(ErrorCode::kInternal, "no parameter is called {}", name);
}

void ParameterSet::require_grad(bool on) {
  for (at::Tensor& tensor : tensors) tensor.set_requires_grad(on);
}

at::Tensor init_parameter(const ModelSpec& spec, const std::vector<ParameterSpec>& specs,
                          size_t index, uint64_t seed, at::ScalarType type, const InitSpec& init) {
  ASHLAR_CHECK(type == at::kFloat || type == at::kDouble);
  const ParameterSpec& p = specs[index];
  const Philox random(seed, index);
  const double sigma = deviation(spec, p, init);
  const double constant = p.is_norm() ? 1.0 : 0.0;
  at::Tensor tensor = at::empty(p.shape, type);
  const auto fill = [&](auto* out) {
    for (int64_t e = 0; e < p.numel(); ++e) {
      const double value = sigma == 0 ? constant : sigma * random.normal(static_cast<uint64_t>(e));
      out[e] = static_cast<std::remove_reference_t<decltype(*out)>>(value);
    }
  };
  if (type == at::kFloat) {
    fill(tensor.data_ptr<float>());
  } else {
    fill(tensor.data_ptr<double>());
  }
  return tensor;
}

ParameterSet init_parameters(const ModelSpec& spec, uint64_t seed, at::ScalarType type,
                             const InitSpec& init) {
  ParameterSet set;
  set.specs = parameters(spec);
  for (size_t i = 0; i < set.specs.size(); ++i) {
    set.tensors.push_back(init_parameter(spec, set.specs, i, seed, type, init));
  }
  return set;
}

}  // namespace ashlar

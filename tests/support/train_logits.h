#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <vector>

#include "models/model.h"
#include "package/format/model_data.h"

namespace ashlar::test {

/// The training side's fp32 logits after every token, [n, vocab].
inline std::vector<float> train_logits(const ModelData& model, const std::vector<int32_t>& tokens) {
  const c10::AutoGradMode no_grad(false);
  const Model network(model.spec);
  ParameterSet set;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const auto values = to_floats(model.tensor(p.name));
    at::Tensor t = at::empty(p.shape, at::kFloat);
    std::copy(values.begin(), values.end(), t.data_ptr<float>());
    set.specs.push_back(p);
    set.tensors.push_back(t);
  }
  at::Tensor ids = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<int64_t>());
  ForwardOptions options;
  options.eos_id = marker_token(model);
  const at::Tensor out = network.forward(set, ids, options).contiguous();
  return {out.data_ptr<float>(), out.data_ptr<float>() + out.numel()};
}

}  // namespace ashlar::test

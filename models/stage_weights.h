#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "core/base/error.h"
#include "models/spec/parameters.h"

namespace ashlar {

/// The parameters of one stage by role, in the order the stage lists them.
class StageWeights {
 public:
  StageWeights(const std::vector<ParameterRole>& roles, std::span<const at::Tensor> tensors)
      : roles_(roles), tensors_(tensors) {}

  bool has(ParameterRole role) const { return find(role) != nullptr; }
  const at::Tensor& operator[](ParameterRole role) const {
    const at::Tensor* tensor = find(role);
    ASHLAR_CHECK(tensor != nullptr);
    return *tensor;
  }
  /// In the type of `like`, which products are computed in.
  at::Tensor as(ParameterRole role, const at::Tensor& like) const {
    return (*this)[role].to(like.scalar_type());
  }
  /// As stored (gains and biases of norms keep fp32 under bf16); empty if the stage has none.
  std::optional<at::Tensor> maybe(ParameterRole role) const {
    const at::Tensor* tensor = find(role);
    return tensor == nullptr ? std::nullopt : std::optional(*tensor);
  }

 private:
  const at::Tensor* find(ParameterRole role) const {
    for (size_t i = 0; i < roles_.size(); ++i) {
      if (roles_[i] == role) return &tensors_[i];
    }
    return nullptr;
  }
  const std::vector<ParameterRole>& roles_;
  std::span<const at::Tensor> tensors_;
};

/// x·wᵀ (+ bias, if the stage has it).
at::Tensor apply_linear(const StageWeights& w, const at::Tensor& x, ParameterRole weight,
                        ParameterRole bias);
/// residual + x·wᵀ (+ bias).
at::Tensor add_linear(const StageWeights& w, const at::Tensor& residual, const at::Tensor& x,
                      ParameterRole weight, ParameterRole bias);
/// {norm(x), x}; carry on with the second (attention/ops.h: rms_norm).
std::pair<at::Tensor, at::Tensor> apply_norm(const StageWeights& w, const at::Tensor& x,
                                             const NormSpec& norm, ParameterRole gain,
                                             ParameterRole bias);

}  // namespace ashlar

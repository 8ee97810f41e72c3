#include "models/block_losses.h"

#include <ATen/ATen.h>

#include "attention/row_dispatch.h"

namespace ashlar {
namespace {

using at::Tensor;

constexpr double kTemperature = 0.07;

Tensor normalised(const Tensor& x) { return x / x.norm(2, {1}, true); }

}  // namespace

Tensor block_decoding_loss(BlockDecodingLoss kind, const Tensor& states, const Tensor& next,
                           const Tensor& mask) {
  const at::ScalarType type = accumulate_type(states.scalar_type());
  const Tensor chosen = at::nonzero(mask.reshape({-1})).squeeze(1);
  const auto rows = [&](const Tensor& x) {
    return x.reshape({-1, x.size(2)}).index_select(0, chosen).to(type);
  };
  const Tensor s = rows(states), target = rows(next.detach());
  if (chosen.numel() == 0 || kind == BlockDecodingLoss::kNone) return s.sum() * 0;
  if (kind == BlockDecodingLoss::kMse) return (s - target).square().mean();
  const Tensor cosines = at::mm(normalised(s), normalised(target).t()) / kTemperature;
  return -at::log_softmax(cosines, 1).diagonal().mean();
}

Tensor weighted_blocks(const Tensor& weights, int64_t length) {
  const int64_t batch = weights.size(0), count = weights.size(1);
  // weights[t] belongs to token t + 1; token 0 has none.
  const Tensor own =
      at::cat({at::zeros({batch, 1}, weights.options()), weights.narrow(1, 0, count - 1)}, 1);
  return (own.narrow(1, 0, count / length * length).reshape({batch, -1, length}) > 0).any(2);
}

}  // namespace ashlar

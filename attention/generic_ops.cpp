#include "attention/generic_ops.h"

#include <ATen/ATen.h>

#include <atomic>

#include "attention/backend.h"
#include "attention/row_dispatch.h"
#ifdef ASHLAR_WITH_TORCH_CUDA
#include "attention/cuda_ops.h"
#endif

namespace ashlar {
namespace {

std::atomic<int> forced = 0;

}  // namespace

GenericOperations::GenericOperations() { ++forced; }
GenericOperations::~GenericOperations() { --forced; }

bool takes_row_kernels(const at::Tensor& t) { return t.is_cpu() && forced == 0; }

bool takes_cuda_kernels(const at::Tensor& t) {
#ifdef ASHLAR_WITH_TORCH_CUDA
  return t.is_cuda() && t.scalar_type() != at::kDouble && forced == 0;
#else
  static_cast<void>(t);
  return false;
#endif
}

namespace generic {
namespace {

using at::Tensor;

Tensor wide(const Tensor& t) { return t.to(accumulate_type(t.scalar_type())); }

// The fused kernels where this build has them.
#ifdef ASHLAR_WITH_TORCH_CUDA
#define ASHLAR_TRY_CUDA(t, call) \
  if (takes_cuda_kernels(t)) return cuda_ops::call
#else
#define ASHLAR_TRY_CUDA(t, call) static_assert(true)
#endif

}  // namespace

std::pair<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& gain, double eps) {
  ASHLAR_TRY_CUDA(x, rms_norm(x, gain, eps));
  const Tensor a = wide(x);
  const Tensor inverse = a.square().mean({-1}, true).add_(eps).rsqrt_();
  return {at::mul(a, inverse).mul_(gain).to(x.scalar_type()), inverse.reshape({-1})};
}

std::pair<Tensor, Tensor> rms_norm_backward(const Tensor& x, const Tensor& gain,
                                            const Tensor& inverse_rms, const Tensor& dy,
                                            const Tensor& residual) {
  ASHLAR_TRY_CUDA(x, rms_norm_backward(x, gain, inverse_rms, dy, residual));
  const int64_t width = x.size(-1);
  const Tensor r = inverse_rms.view({-1, 1});
  const Tensor normal = wide(x).view({-1, width}).mul(r), upstream = wide(dy).view({-1, width});
  const Tensor dgain = at::mul(upstream, normal).sum(0);
  const Tensor scaled = at::mul(upstream, gain);
  // r·(dy∘gain) − x·r³/width·⟨dy∘gain, x⟩ with x·r = normal.
  Tensor dx = scaled.sub(normal.mul(at::mul(scaled, normal).mean({1}, true))).mul_(r);
  if (residual.defined()) dx.add_(residual.view({-1, width}));
  return {dx.to(x.scalar_type()).view(x.sizes()), dgain};
}

Tensor rotate(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t offset,
              int direction) {
  ASHLAR_TRY_CUDA(x, rotate(x, cosine, sine, offset, direction));
  const int64_t half = cosine.size(1), behind = offset + 2 * half;
  const Tensor first = wide(x.narrow(3, offset, half));
  const Tensor second = wide(x.narrow(3, offset + half, half));
  const Tensor c = cosine.unsqueeze(1), s = (direction > 0 ? sine : sine.neg()).unsqueeze(1);
  Tensor y = at::empty_like(x);
  y.narrow(3, offset, half).copy_(at::mul(first, c).sub_(at::mul(second, s)));
  y.narrow(3, offset + half, half).copy_(at::mul(second, c).add_(at::mul(first, s)));
  if (offset > 0) y.narrow(3, 0, offset).copy_(x.narrow(3, 0, offset));
  if (behind < x.size(3)) {
    y.narrow(3, behind, x.size(3) - behind).copy_(x.narrow(3, behind, x.size(3) - behind));
  }
  return y;
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  ASHLAR_TRY_CUDA(gate, swiglu(gate, up));
  return at::silu(wide(gate)).mul_(up).to(gate.scalar_type());
}

std::pair<Tensor, Tensor> swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  ASHLAR_TRY_CUDA(gate, swiglu_backward(gate, up, dy));
  const Tensor g = wide(gate), d = wide(dy), s = at::sigmoid(g);
  const Tensor dup = at::mul(g, s).mul_(d);
  // d(g·σ(g))/dg = σ·(1 + g·(1 − σ))
  const Tensor slope = at::rsub(s, 1).mul_(g).add_(1).mul_(s);
  return {slope.mul_(d).mul_(up).to(gate.scalar_type()), dup.to(up.scalar_type())};
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& weights,
                   const Tensor& loss, const LossShape& shape, bool gradient) {
  ASHLAR_TRY_CUDA(logits, cross_entropy(logits, targets, weights, loss, shape, gradient));
  Tensor a = wide(logits);
  const double cap = shape.softcap;
  if (cap > 0) a = at::tanh(a / cap).mul_(cap);
  const Tensor index = targets.unsqueeze(1), lse = at::logsumexp(a, {1}, true);
  const Tensor chosen = a.gather(1, index);
  const Tensor lse64 = lse.to(at::kDouble);
  const Tensor own = (lse - chosen).to(at::kDouble).add_(lse64.square() * shape.z);
  loss.copy_(own.squeeze(1) * weights);
  if (!gradient) return;
  const Tensor weight = weights.to(a.scalar_type()).unsqueeze(1);
  const Tensor scale = weight * (lse * (2 * shape.z) + 1);
  Tensor d = at::sub(a, lse).exp_().mul_(scale);
  d.scatter_(1, index, d.gather(1, index).sub_(weight));
  if (cap > 0) d.mul_(at::rsub(a.square().mul_(1 / (cap * cap)), 1));
  logits.copy_(d);
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias,
                  double eps) {
  return at::layer_norm(wide(x), {x.size(-1)}, gain, bias, eps).to(x.scalar_type());
}

}  // namespace generic
}  // namespace ashlar

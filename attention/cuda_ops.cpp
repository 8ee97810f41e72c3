#include "attention/cuda_ops.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "attention/cuda/launch.h"
#include "attention/row_dispatch.h"
#include "core/base/error.h"

namespace ashlar::cuda_ops {
namespace {

using at::Tensor;

// Calls body(T{}, stream) on the tensor's GPU, for a row-kernel type T; what it returns is the
// reason of a failure.
template <typename Body>
void launch(const Tensor& t, const char* what, const Body& body) {
  ASHLAR_CHECK(t.is_cuda() && t.is_contiguous());
  const c10::DeviceGuard guard(t.device());
  void* stream = c10::cuda::getCurrentCUDAStream().stream();
  const char* why = nullptr;
  if (t.scalar_type() == at::kFloat) {
    why = body(float{}, stream);
  } else {
    ASHLAR_CHECK(t.scalar_type() == at::kBFloat16);
    why = body(rows::Bf16{}, stream);
  }
  require(why == nullptr, ErrorCode::kIo, "CUDA: {}: {}", what, why);
}

}  // namespace

std::pair<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& gain, double eps) {
  const int64_t width = x.size(-1), rows = x.numel() / width;
  Tensor y = at::empty_like(x), inverse = at::empty({rows}, gain.options());
  const Tensor own_gain = gain.contiguous();
  launch(x, "rms_norm", [&]<typename T>(T, void* stream) {
    return cuda::rms_norm<T>(data<T>(x), data<float>(own_gain), data<T>(y), data<float>(inverse),
                             rows, width, static_cast<float>(eps), stream);
  });
  return {y, inverse};
}

std::pair<Tensor, Tensor> rms_norm_backward(const Tensor& x, const Tensor& gain,
                                            const Tensor& inverse_rms, const Tensor& dy,
                                            const Tensor& residual) {
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const int64_t groups = (rows + cuda::kGainRows - 1) / cuda::kGainRows;
  Tensor dx = at::empty_like(x), parts = at::empty({groups, width}, gain.options());
  const Tensor own_gain = gain.contiguous();
  launch(x, "rms_norm_backward", [&]<typename T>(T, void* stream) {
    return cuda::rms_norm_backward<T>(data<T>(x), data<float>(own_gain), data<float>(inverse_rms),
                                      data<T>(dy), residual.defined() ? data<T>(residual) : nullptr,
                                      data<T>(dx), data<float>(parts), rows, width, stream);
  });
  return {dx, parts.sum(0)};
}

Tensor rotate(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t offset,
              int direction) {
  Tensor y = at::empty_like(x);
  const rows::HeadPart part{x.size(3), offset, 2 * cosine.size(1)};
  launch(x, "rotate", [&]<typename T>(T, void* stream) {
    return cuda::rotate<T>(data<T>(x), data<T>(y), data<float>(cosine), data<float>(sine),
                           x.size(0) * x.size(1), x.size(1), x.size(2), part, direction, stream);
  });
  return y;
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  Tensor y = at::empty_like(gate);
  launch(gate, "swiglu", [&]<typename T>(T, void* stream) {
    return cuda::swiglu<T>(data<T>(gate), data<T>(up), data<T>(y), gate.numel(), stream);
  });
  return y;
}

std::pair<Tensor, Tensor> swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  launch(gate, "swiglu_backward", [&]<typename T>(T, void* stream) {
    return cuda::swiglu_backward<T>(data<T>(gate), data<T>(up), data<T>(dy), data<T>(dgate),
                                    data<T>(dup), gate.numel(), stream);
  });
  return {dgate, dup};
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& weights,
                   const Tensor& loss, const rows::LossShape& shape, bool gradient) {
  launch(logits, "cross_entropy", [&]<typename T>(T, void* stream) {
    return cuda::cross_entropy<T>(data<T>(logits), data<int64_t>(targets), data<float>(weights),
                                  data<double>(loss), logits.size(0), logits.size(1), shape,
                                  gradient, stream);
  });
}

}  // namespace ashlar::cuda_ops

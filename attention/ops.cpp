#include "attention/ops.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "attention/backend.h"
#include "attention/generic_ops.h"
#include "attention/linear.h"
#include "attention/row_dispatch.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct RmsNorm : Function<RmsNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& input, const Tensor& gain,
                               double eps) {
    const Tensor x = input.contiguous();
    const int64_t width = x.size(-1), rows = x.numel() / width;
    const at::ScalarType type = accumulate_type(x.scalar_type());
    ASHLAR_CHECK(gain.scalar_type() == type && gain.numel() == width);
    if (!takes_row_kernels(x)) {
      auto [y, inverse] = generic::rms_norm(x, gain, eps);
      ctx->save_for_backward({x, gain, inverse});
      return {y, input.view_as(input)};
    }
    Tensor y = at::empty_like(x);
    Tensor inverse = at::empty({rows}, x.options().dtype(type));
    dispatch(x.scalar_type(), [&]<typename T>(T) {
      using A = rows::Accumulate<T>;
      for_row_tasks(rows, [&](int64_t, int64_t first, int64_t count) {
        rows::rms_norm<T>(data<T>(x) + first * width, data<A>(gain), data<T>(y) + first * width,
                          data<A>(inverse) + first, count, width, eps);
      });
    });
    ctx->save_for_backward({x, gain, inverse});
    return {y, input.view_as(input)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &inverse = saved[2];
    if (!grads[0].defined()) return {grads[1], {}, {}};
    const int64_t width = x.size(-1), rows = x.numel() / width;
    const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
    const Tensor dy = grads[0].contiguous();
    const Tensor skip = grads[1].defined() ? grads[1].contiguous() : Tensor();
    if (!takes_row_kernels(x)) {
      auto [dx, dgain] = generic::rms_norm_backward(x, gain, inverse, dy, skip);
      return {dx, dgain, {}};
    }
    Tensor dx = at::empty_like(x);
    Tensor parts = at::zeros({tasks, width}, gain.options());
    dispatch(x.scalar_type(), [&]<typename T>(T) {
      using A = rows::Accumulate<T>;
      for_row_tasks(rows, [&](int64_t task, int64_t first, int64_t count) {
        const int64_t at = first * width;
        rows::rms_norm_backward<T>(data<T>(x) + at, data<A>(gain), data<A>(inverse) + first,
                                   data<T>(dy) + at, skip.defined() ? data<T>(skip) + at : nullptr,
                                   data<T>(dx) + at, data<A>(parts) + task * width, count, width);
      });
    });
    return {dx, parts.sum(0), {}};
  }
};

Tensor rotated(const Tensor& input, const Tensor& cosine, const Tensor& sine, int64_t offset,
               int direction) {
  const Tensor x = input.contiguous();
  if (!takes_row_kernels(x)) return generic::rotate(x, cosine, sine, offset, direction);
  Tensor y = at::empty_like(x);
  const int64_t positions = x.size(1), heads = x.size(2), dim = x.size(3);
  const int64_t width = heads * dim;
  const rows::HeadPart part{dim, offset, 2 * cosine.size(1)};
  dispatch(x.scalar_type(), [&]<typename T>(T) {
    using A = rows::Accumulate<T>;
    for_row_tasks(x.size(0) * positions, [&](int64_t, int64_t first, int64_t count) {
      rows::rotate<T>(data<T>(x) + first * width, data<T>(y) + first * width, data<A>(cosine),
                      data<A>(sine), first, count, positions, heads, part, direction);
    });
  });
  return y;
}

struct Rotate : Function<Rotate> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cosine,
                        const Tensor& sine, int64_t offset) {
    ctx->save_for_backward({cosine, sine});
    ctx->saved_data["offset"] = offset;
    return rotated(x, cosine, sine, offset, 1);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {
        rotated(grads[0], saved[0], saved[1], ctx->saved_data["offset"].toInt(), -1), {}, {}, {}};
  }
};

struct SwiGlu : Function<SwiGlu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& up) {
    ctx->save_for_backward({gate, up});
    if (!takes_row_kernels(gate)) return generic::swiglu(gate, up);
    Tensor y = at::empty_like(gate);
    const int64_t width = gate.size(-1);
    dispatch(gate.scalar_type(), [&]<typename T>(T) {
      for_row_tasks(gate.numel() / width, [&](int64_t, int64_t first, int64_t count) {
        const int64_t at = first * width;
        rows::swiglu<T>(data<T>(gate) + at, data<T>(up) + at, data<T>(y) + at, count * width);
      });
    });
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    const Tensor dy = grads[0].contiguous();
    if (!takes_row_kernels(gate)) {
      auto [dgate, dup] = generic::swiglu_backward(gate, up, dy);
      return {dgate, dup};
    }
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    const int64_t width = gate.size(-1);
    dispatch(gate.scalar_type(), [&]<typename T>(T) {
      for_row_tasks(gate.numel() / width, [&](int64_t, int64_t first, int64_t count) {
        const int64_t at = first * width;
        rows::swiglu_backward<T>(data<T>(gate) + at, data<T>(up) + at, data<T>(dy) + at,
                                 data<T>(dgate) + at, data<T>(dup) + at, count * width);
      });
    });
    return {dgate, dup};
  }
};

// Rows whose logits exist at one time: enough for an efficient product, small enough for the cache.
constexpr int64_t kLogitRows = 512;
// On other devices: logits of one chunk, which must also fill the device with work.
constexpr int64_t kDeviceLogits = int64_t{1} << 26;

int64_t logit_rows(const Tensor& hidden, int64_t classes) {
  if (takes_row_kernels(hidden)) return kLogitRows;
  return std::max(kLogitRows, kDeviceLogits / classes);
}

void losses_of_logits(const Tensor& logits, const Tensor& targets, const Tensor& weights,
                      const Tensor& loss, const LossShape& shape, bool gradient) {
  if (!takes_row_kernels(logits)) {
    return generic::cross_entropy(logits, targets, weights, loss, shape, gradient);
  }
  const int64_t rows = logits.size(0), classes = logits.size(1);
  dispatch(logits.scalar_type(), [&]<typename T>(T) {
    for_row_tasks(rows, [&](int64_t, int64_t first, int64_t n) {
      rows::cross_entropy<T>(data<T>(logits) + first * classes, data<int64_t>(targets) + first,
                             data<float>(weights) + first, data<double>(loss) + first, n, classes,
                             shape, gradient);
    });
  });
}

// Losses of each row [N] in double. With gradients wanted, dhidden [N, D] is written and dhead
// [V, D], in the accumulate type, is added to.
Tensor row_losses(const Tensor& hidden, const Tensor& head, const Tensor& targets,
                  const Tensor& weights, const LossShape& shape, const Tensor& dhidden,
                  const Tensor& dhead) {
  const int64_t rows = hidden.size(0), classes = head.size(0);
  const bool gradient = dhidden.defined();
  Tensor loss = at::empty({rows}, hidden.options().dtype(at::kDouble));
  const int64_t most = logit_rows(hidden, classes);
  for (int64_t at = 0; at < rows; at += most) {
    const int64_t count = std::min(most, rows - at);
    const Tensor h = hidden.narrow(0, at, count);
    const Tensor logits = times_transposed(h, head);
    losses_of_logits(logits, targets.narrow(0, at, count), weights.narrow(0, at, count),
                     loss.narrow(0, at, count), shape, gradient);
    if (!gradient) continue;
    dhidden.narrow(0, at, count).copy_(times(logits, head));
    if (dhead.scalar_type() == logits.scalar_type()) {
      dhead.addmm_(logits.t(), h);
    } else {
      dhead.add_(at::mm(logits.t(), h));
    }
  }
  return loss;
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& head,
                        const Tensor& targets, const Tensor& weights, double softcap, double z) {
    const Tensor dhidden = at::empty_like(hidden);
    const Tensor dhead =
        at::zeros(head.sizes(), head.options().dtype(accumulate_type(head.scalar_type())));
    const Tensor loss = row_losses(hidden, head, targets, weights, {softcap, z}, dhidden, dhead);
    ctx->save_for_backward({dhidden, dhead});
    ctx->saved_data["head_type"] = static_cast<int64_t>(head.scalar_type());
    return loss.sum();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(ctx->saved_data["head_type"].toInt());
    if (!takes_row_kernels(grads[0])) {
      // Reading the factor would make the host wait for the device.
      const auto times = [&](const Tensor& t) { return t * grads[0].to(t.scalar_type()); };
      return {times(saved[0]), times(saved[1]).to(type), {}, {}, {}, {}};
    }
    const double scale = grads[0].item<double>();
    const auto scaled = [&](const Tensor& t) { return scale == 1.0 ? t : t * scale; };
    return {scaled(saved[0]), scaled(saved[1]).to(type), {}, {}, {}, {}};
  }
};

void check_targets(const Tensor& hidden, const Tensor& head, const Tensor& targets) {
  ASHLAR_CHECK(hidden.dim() == 2 && head.dim() == 2 && hidden.size(1) == head.size(1));
  ASHLAR_CHECK(targets.numel() == hidden.size(0) && targets.is_contiguous());
  // What is on a device was checked before it went there (train/micro_batches.h).
  if (!targets.is_cpu()) return;
  const int64_t classes = head.size(0);
  const int64_t* target = targets.data_ptr<int64_t>();
  for (int64_t i = 0; i < targets.numel(); ++i) {
    require(target[i] >= 0 && target[i] < classes, ErrorCode::kData,
            "target {} at row {} is outside the vocabulary of {}", target[i], i, classes);
  }
}

Tensor linear_loss(const Tensor& hidden, const Tensor& head, const Tensor& targets,
                   const Tensor& weights, const LossShape& shape) {
  if (!at::GradMode::is_enabled()) {
    return row_losses(hidden.contiguous(), head.contiguous(), targets, weights, shape, {}, {})
        .sum();
  }
  return LinearCrossEntropy::apply(hidden.contiguous(), head.contiguous(), targets, weights,
                                   shape.softcap, shape.z);
}

}  // namespace

RopeTable make_rope_table(int64_t positions, const RopeSpec& rope, at::ScalarType compute,
                          at::Device device) {
  const RopeFrequencies turn = rope_frequencies(rope);
  const auto half = static_cast<int64_t>(turn.frequency.size());
  Tensor cosine = at::empty({positions, half}, at::kDouble), sine = at::empty_like(cosine);
  double* c = cosine.data_ptr<double>();
  double* s = sine.data_ptr<double>();
  for (int64_t t = 0; t < positions; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(t) * turn.frequency[static_cast<size_t>(i)];
      c[t * half + i] = turn.magnitude * std::cos(angle);
      s[t * half + i] = turn.magnitude * std::sin(angle);
    }
  }
  const at::ScalarType type = accumulate_type(compute);
  return {cosine.to(type).to(device), sine.to(type).to(device)};
}

std::pair<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& gain, double eps) {
  auto out = RmsNorm::apply(x, gain, eps);
  return {std::move(out[0]), std::move(out[1])};
}

Tensor rotate(const Tensor& x, const RopeTable& table, int64_t offset) {
  ASHLAR_CHECK(x.dim() == 4 && table.cosine.size(0) == x.size(1) &&
               offset + table.cosine.size(1) * 2 <= x.size(3));
  return table.cosine.size(1) == 0 ? x : Rotate::apply(x, table.cosine, table.sine, offset);
}

Tensor layer_norm(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias,
                  double eps) {
  if (!takes_row_kernels(x)) return generic::layer_norm(x, gain, bias, eps);
  return at::layer_norm(x, {x.size(-1)}, gain, bias, eps);
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  return SwiGlu::apply(gate.contiguous(), up.contiguous());
}

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& head, const Tensor& targets,
                            const Tensor& weights, const LossShape& shape) {
  check_targets(hidden, head, targets);
  ASHLAR_CHECK(weights.numel() == hidden.size(0) && weights.is_contiguous());
  if (!hidden.is_cpu()) return linear_loss(hidden, head, targets, weights, shape);
  // Where most targets do not count (answers of a task), their logits are most of the work. (On a
  // device, counting them would make the host wait.)
  const Tensor counts = at::nonzero(weights).squeeze(1);
  if (2 * counts.numel() < weights.numel() && counts.numel() > 0) {
    return linear_cross_entropy(hidden.index_select(0, counts), head,
                                targets.index_select(0, counts), weights.index_select(0, counts),
                                shape);
  }
  return linear_loss(hidden, head, targets, weights, shape);
}

Tensor linear_losses(const Tensor& hidden, const Tensor& head, const Tensor& targets,
                     const Tensor& weights, double softcap) {
  check_targets(hidden, head, targets);
  ASHLAR_CHECK(weights.numel() == hidden.size(0) && weights.is_contiguous());
  const at::NoGradGuard no_grad;
  return row_losses(hidden.contiguous(), head.contiguous(), targets, weights, {softcap, 0}, {}, {});
}

}  // namespace ashlar

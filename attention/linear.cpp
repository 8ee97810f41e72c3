#include "attention/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string_view>

// oneDNN reads an operand in any order without a copy, MKL is the faster where both operands are
// transposed: so outputs and input gradients are oneDNN's, weight gradients the BLAS library's.

namespace ashlar {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

using OneDnnLinear = Tensor(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias,
                            std::string_view activation,
                            c10::List<std::optional<at::Scalar>> scalars,
                            std::optional<std::string_view> algorithm);
using OneDnnLinearBinary = Tensor(const Tensor& x, const Tensor& other, const Tensor& w,
                                  const std::optional<Tensor>& bias, std::string_view operation);

template <typename Signature>
const c10::TypedOperatorHandle<Signature>& one_dnn(const char* overload) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", overload)
                             .typed<Signature>();
  return op;
}

bool takes_one_dnn(const Tensor& x, const Tensor& w) {
  return x.scalar_type() == at::kFloat && x.is_cpu() && w.scalar_type() == at::kFloat &&
         x.numel() > 0;
}

Tensor flat(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// sum [M, N] + x·wᵀ.
Tensor plus_times_transposed(const Tensor& sum, const Tensor& x, const Tensor& w) {
  if (!takes_one_dnn(x, w)) return at::addmm(sum, x, w.t());
  return one_dnn<OneDnnLinearBinary>("binary").call(x, sum, w, {}, "add");
}

Tensor shaped_as(const Tensor& y, const Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() = y.size(1);
  return y.view(shape);
}

// Saved: x [M, K], then the weights. Gradients: x, up to three weights, the first one's bias.
struct LinearMany : Function<LinearMany> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& w0,
                               const std::optional<Tensor>& w1, const std::optional<Tensor>& w2,
                               const std::optional<Tensor>& bias) {
    const Tensor x2 = flat(x);
    variable_list saved = {x2, w0}, out;
    if (w1) saved.push_back(*w1);
    if (w2) saved.push_back(*w2);
    for (size_t i = 1; i < saved.size(); ++i) {
      const auto own_bias = i == 1 ? bias : std::nullopt;
      out.push_back(shaped_as(times_transposed(x2, saved[i], own_bias), x));
    }
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["bias"] = bias.has_value();
    ctx->save_for_backward(saved);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list out(5);
    Tensor dx;
    for (size_t i = 0; i + 1 < saved.size(); ++i) {
      if (!grads[i].defined()) continue;
      const Tensor g = flat(grads[i]).contiguous();
      const Tensor& w = saved[i + 1];
      if (ctx->needs_input_grad(0)) {
        dx = dx.defined() ? plus_times_transposed(dx, g, w.t()) : times(g, w);
      }
      out[i + 1] = at::mm(g.t(), saved[0]);
      if (i == 0 && ctx->saved_data["bias"].toBool()) out[4] = g.sum(0);
    }
    if (dx.defined()) out[0] = dx.view(ctx->saved_data["shape"].toIntVector());
    return out;
  }
};

struct LinearAdd : Function<LinearAdd> {
  static Tensor forward(AutogradContext* ctx, const Tensor& residual, const Tensor& x,
                        const Tensor& w) {
    const Tensor x2 = flat(x);
    ctx->save_for_backward({x2, w});
    ctx->saved_data["shape"] = x.sizes().vec();
    return plus_times_transposed(flat(residual), x2, w).view(residual.sizes());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor g = flat(grads[0]).contiguous();
    const Tensor dx = times(g, saved[1]).view(ctx->saved_data["shape"].toIntVector());
    return {grads[0], dx, at::mm(g.t(), saved[0])};
  }
};

}  // namespace

Tensor times_transposed(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  if (takes_one_dnn(x, w)) {
    return one_dnn<OneDnnLinear>("").call(x, w, bias, "none",
                                          c10::List<std::optional<at::Scalar>>(), std::nullopt);
  }
  return bias ? at::addmm(*bias, x, w.t()) : at::mm(x, w.t());
}

Tensor times(const Tensor& x, const Tensor& w) { return times_transposed(x, w.t()); }

Tensor linear_map(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  return LinearMany::apply(x, w, std::nullopt, std::nullopt, bias)[0];
}

std::vector<Tensor> linear_many(const Tensor& x, const Tensor& w0, const Tensor& w1,
                                const std::optional<Tensor>& w2) {
  return LinearMany::apply(x, w0, w1, w2, std::nullopt);
}

Tensor linear_add(const Tensor& residual, const Tensor& x, const Tensor& w) {
  return LinearAdd::apply(residual, x, w);
}

}  // namespace ashlar

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "attention/ops.h"
#include "attention/row_dispatch.h"

// Causal attention for training on CPUs. Two ways, chosen by length alone: whole short rows in
// registers (rows::short_attention), or tiles of queries against all keys before them, in which the
// matrix products are the BLAS library's and the probabilities of one tile are all that exists at a
// time; the backward pass makes them again (as in FlashAttention, arXiv 2205.14135, without its
// tiling over keys, whose online softmax does not pay on CPUs). Sums are in fp32 for bf16.

namespace ashlar {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Queries per tile: the scores of a group's heads stay in the second-level cache.
constexpr int64_t kTile = 64;

struct Shape {
  int64_t batch, positions, heads, kv_heads, dim;
  int64_t share() const { return heads / kv_heads; }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(dim)); }
  bool is_short() const { return positions <= rows::kShortRows && dim <= rows::kShortDim; }
};

Shape shape_of(const Tensor& q, const Tensor& k) {
  return {q.size(0), q.size(1), q.size(2), k.size(2), q.size(3)};
}

// Queries [first, first + count) of one KV group as rows (head, query): [share·count, dim].
Tensor gather(const Tensor& x, const Shape& s, int64_t b, int64_t g, int64_t first, int64_t count,
              at::ScalarType type) {
  return x.select(0, b)
      .narrow(0, first, count)
      .narrow(1, g * s.share(), s.share())
      .transpose(0, 1)
      .to(type, false, true, at::MemoryFormat::Contiguous)
      .view({s.share() * count, s.dim});
}

void scatter(const Tensor& rows, const Tensor& x, const Shape& s, int64_t b, int64_t g,
             int64_t first, int64_t count) {
  x.select(0, b)
      .narrow(0, first, count)
      .narrow(1, g * s.share(), s.share())
      .copy_(rows.view({s.share(), count, s.dim}).transpose(0, 1));
}

// Probabilities of one tile, [share·count, first + count].
Tensor tile_probabilities(const Tensor& q, const Tensor& keys, const Shape& s, int64_t first,
                          int64_t count) {
  const int64_t columns = first + count;
  Tensor p = at::mm(q, keys.narrow(0, 0, columns).t());
  dispatch(p.scalar_type(), [&]<typename T>(T) {
    for (int64_t h = 0; h < s.share(); ++h) {
      rows::causal_softmax<T>(data<T>(p) + h * count * columns, count, columns, columns, first,
                              s.scale());
    }
  });
  return p;
}

// Runs body(b, g) for every (row of the batch, KV head); each writes its own part of the output.
template <typename Body>
void for_groups(const Shape& s, const Body& body) {
  at::parallel_for(0, s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView below;  // worker threads start with autograd on
    for (int64_t i = begin; i < end; ++i) body(i / s.kv_heads, i % s.kv_heads);
  });
}

template <typename Body>
void for_tiles(const Shape& s, const Body& body) {
  for (int64_t first = 0; first < s.positions; first += kTile) {
    body(first, std::min(kTile, s.positions - first));
  }
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Shape& s) {
  Tensor out = at::empty_like(q);
  if (s.is_short()) {
    const int64_t wide = s.positions * s.heads * s.dim, narrow = s.positions * s.kv_heads * s.dim;
    dispatch(q.scalar_type(), [&]<typename T>(T) {
      for_row_tasks(s.batch, [&](int64_t, int64_t first, int64_t count) {
        rows::short_attention<T>(data<T>(q) + first * wide, data<T>(k) + first * narrow,
                                 data<T>(v) + first * narrow, data<T>(out) + first * wide, count,
                                 s.positions, s.heads, s.kv_heads, s.dim, s.scale());
      });
    });
    return out;
  }
  const at::ScalarType type = accumulate_type(q.scalar_type());
  for_groups(s, [&](int64_t b, int64_t g) {
    const Tensor keys = k.select(0, b).select(1, g).to(type);
    const Tensor values = v.select(0, b).select(1, g).to(type);
    for_tiles(s, [&](int64_t first, int64_t count) {
      const Tensor p =
          tile_probabilities(gather(q, s, b, g, first, count, type), keys, s, first, count);
      scatter(at::mm(p, values.narrow(0, 0, first + count)), out, s, b, g, first, count);
    });
  });
  return out;
}

struct Gradients {
  Tensor q, k, v;
};

void tiled_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                    const Shape& s, const Gradients& out) {
  const at::ScalarType type = accumulate_type(q.scalar_type());
  for_groups(s, [&](int64_t b, int64_t g) {
    const Tensor keys = k.select(0, b).select(1, g).to(type);
    const Tensor values = v.select(0, b).select(1, g).to(type);
    const Tensor dkeys = at::zeros({s.positions, s.dim}, keys.options());
    const Tensor dvalues = at::zeros_like(dkeys);
    for_tiles(s, [&](int64_t first, int64_t count) {
      const int64_t columns = first + count;
      const Tensor queries = gather(q, s, b, g, first, count, type);
      const Tensor upstream = gather(dout, s, b, g, first, count, type);
      const Tensor p = tile_probabilities(queries, keys, s, first, count);
      const Tensor scores = at::mm(upstream, values.narrow(0, 0, columns).t());
      dvalues.narrow(0, 0, columns).addmm_(p.t(), upstream);
      dispatch(type, [&]<typename T>(T) {
        for (int64_t h = 0; h < s.share(); ++h) {
          const int64_t at = h * count * columns;
          rows::causal_softmax_backward<T>(data<T>(p) + at, data<T>(scores) + at, count, columns,
                                           columns, first, s.scale());
        }
      });
      dkeys.narrow(0, 0, columns).addmm_(scores.t(), queries);
      scatter(at::mm(scores, keys.narrow(0, 0, columns)), out.q, s, b, g, first, count);
    });
    out.k.select(0, b).select(1, g).copy_(dkeys);
    out.v.select(0, b).select(1, g).copy_(dvalues);
  });
}

struct CausalAttention : Function<CausalAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v) {
    ctx->save_for_backward({q, k, v});
    return attend(q, k, v, shape_of(q, k));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const Shape s = shape_of(q, k);
    const Tensor dout = grads[0].contiguous();
    const Gradients out = {at::empty_like(q), at::empty_like(k), at::empty_like(v)};
    if (!s.is_short()) {
      tiled_backward(q, k, v, dout, s, out);
      return {out.q, out.k, out.v};
    }
    const int64_t wide = s.positions * s.heads * s.dim, narrow = s.positions * s.kv_heads * s.dim;
    dispatch(q.scalar_type(), [&]<typename T>(T) {
      for_row_tasks(s.batch, [&](int64_t, int64_t first, int64_t count) {
        const int64_t a = first * wide, b = first * narrow;
        rows::short_attention_backward<T>(data<T>(q) + a, data<T>(k) + b, data<T>(v) + b,
                                          data<T>(dout) + a, data<T>(out.q) + a, data<T>(out.k) + b,
                                          data<T>(out.v) + b, count, s.positions, s.heads,
                                          s.kv_heads, s.dim, s.scale());
      });
    });
    return {out.q, out.k, out.v};
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  ASHLAR_CHECK(q.dim() == 4 && k.sizes() == v.sizes() && q.size(1) == k.size(1) &&
               q.size(3) == k.size(3) && q.size(2) % k.size(2) == 0);
  return CausalAttention::apply(q.contiguous(), k.contiguous(), v.contiguous());
}

}  // namespace ashlar

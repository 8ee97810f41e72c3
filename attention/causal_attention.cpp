#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "attention/backend.h"
#include "attention/generic_ops.h"
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
constexpr int64_t kTile = 128;

struct Shape {
  int64_t batch, positions, heads, kv_heads, dim, value_dim, window;
  bool masked, sinks;  // by documents; extra logits
  int64_t share() const { return heads / kv_heads; }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(dim)); }
  bool is_short() const {
    return positions <= rows::kShortRows && dim <= rows::kShortDim && dim == value_dim &&
           window == 0 && !masked && !sinks;
  }
};

Shape shape_of(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window,
               const Tensor& begin, const Tensor& sinks) {
  // A window over everything narrows nothing.
  return {q.size(0),
          q.size(1),
          q.size(2),
          k.size(2),
          q.size(3),
          v.size(3),
          window >= q.size(1) ? 0 : window,
          begin.defined(),
          sinks.defined()};
}

// Queries [first, first + count) of one KV group as rows (head, query): [share·count, dim].
Tensor gather(const Tensor& x, const Shape& s, int64_t b, int64_t g, int64_t first, int64_t count,
              at::ScalarType type) {
  return x.select(0, b)
      .narrow(0, first, count)
      .narrow(1, g * s.share(), s.share())
      .transpose(0, 1)
      .to(type, false, true, at::MemoryFormat::Contiguous)
      .view({s.share() * count, x.size(3)});
}

void scatter(const Tensor& rows, const Tensor& x, const Shape& s, int64_t b, int64_t g,
             int64_t first, int64_t count) {
  x.select(0, b)
      .narrow(0, first, count)
      .narrow(1, g * s.share(), s.share())
      .copy_(rows.view({s.share(), count, x.size(3)}).transpose(0, 1));
}

// Which keys the queries of one tile see: columns are keys [low, first + count).
class Tile {
 public:
  Tile(const Shape& s, const Tensor& begin, int64_t b, int64_t first, int64_t count)
      : first(first), count(count), window_(s.window) {
    if (begin.defined()) begin_ = begin.data_ptr<int32_t>() + b * s.positions;
    low = begin_of(first);
    columns = first + count - low;
  }
  int64_t begin_of(int64_t query) const {
    const int64_t window = window_ > 0 ? std::max<int64_t>(0, query - window_ + 1) : 0;
    return begin_ == nullptr ? window : std::max<int64_t>(window, begin_[query]);
  }
  Tensor of(const Tensor& keys) const { return keys.narrow(0, low, columns); }

  const int64_t first, count;
  int64_t low = 0, columns = 0;

 private:
  int64_t window_;
  const int32_t* begin_ = nullptr;
};

// Softmax of the rows of one head, whose first kept column differs from row to row. `p` has one
// column in front of the keys, where a sink's logit finds room left of the first kept key.
template <typename T>
void narrow_softmax(T* p, const Tile& tile, double scale, const T* sink, T* sink_probability) {
  const int64_t stride = tile.columns + 1;
  for (int64_t r = 0; r < tile.count; ++r, p += stride) {
    const int64_t query = tile.first + r, skip = tile.begin_of(query) - tile.low;
    const int64_t kept = query - tile.low - skip + 1, behind = tile.columns - skip - kept;
    T* row = p + skip + 1;
    if (sink == nullptr) {
      rows::causal_softmax<T>(row, 1, stride, kept + behind, kept - 1, scale);
    } else {
      row[-1] = static_cast<T>(*sink / static_cast<T>(scale));
      rows::causal_softmax<T>(row - 1, 1, stride, kept + behind + 1, kept, scale);
      sink_probability[r] = row[-1];
    }
    std::fill_n(p, skip + 1, T(0));
  }
}

template <typename T>
void narrow_softmax_backward(const T* p, T* dp, const Tile& tile, double scale) {
  const int64_t stride = tile.columns + 1;
  for (int64_t r = 0; r < tile.count; ++r, p += stride, dp += stride) {
    const int64_t query = tile.first + r, skip = tile.begin_of(query) - tile.low;
    rows::causal_softmax_backward<T>(p + skip + 1, dp + skip + 1, 1, stride, tile.columns - skip,
                                     query - tile.low - skip, scale);
    std::fill_n(dp, skip + 1, T(0));
  }
}

// Probabilities of one tile [share·count, columns] for queries and keys of float or double. With
// sinks, `sink_probabilities` [share·count] receives theirs.
Tensor tile_probabilities(const Tensor& q, const Tensor& keys, const Shape& s, const Tile& tile,
                          const Tensor& sinks, int64_t group, const Tensor& sink_probabilities) {
  const int64_t rows = q.size(0), columns = tile.columns;
  const Tensor k = tile.of(keys);
  if (s.window == 0 && !s.masked && !s.sinks) {
    Tensor p = at::mm(q, k.t());
    dispatch(p.scalar_type(), [&]<typename T>(T) {
      for (int64_t h = 0; h < s.share(); ++h) {
        rows::causal_softmax<T>(data<T>(p) + h * tile.count * columns, tile.count, columns, columns,
                                tile.first, s.scale());
      }
    });
    return p;
  }
  const Tensor wide = at::empty({rows, columns + 1}, q.options());
  Tensor p = wide.narrow(1, 1, columns);
  p.copy_(at::mm(q, k.t()));
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "narrow_softmax", [&] {
    for (int64_t h = 0; h < s.share(); ++h) {
      const int64_t at = h * tile.count;
      const bool sink = s.sinks;
      narrow_softmax<scalar_t>(wide.data_ptr<scalar_t>() + at * (columns + 1), tile, s.scale(),
                               sink ? sinks.data_ptr<scalar_t>() + group * s.share() + h : nullptr,
                               sink ? sink_probabilities.data_ptr<scalar_t>() + at : nullptr);
    }
  });
  return p;
}

// ds = scale·p∘(dp − ⟨dp, p⟩) over `dp`, [share·count, columns]; returns ds.
Tensor tile_backward(const Tensor& p, const Tensor& dp, const Shape& s, const Tile& tile) {
  const int64_t columns = tile.columns;
  if (s.window == 0 && !s.masked && !s.sinks) {
    dispatch(dp.scalar_type(), [&]<typename T>(T) {
      for (int64_t h = 0; h < s.share(); ++h) {
        const int64_t at = h * tile.count * columns;
        rows::causal_softmax_backward<T>(data<T>(p) + at, data<T>(dp) + at, tile.count, columns,
                                         columns, tile.first, s.scale());
      }
    });
    return dp;
  }
  const Tensor wide = at::empty({dp.size(0), columns + 1}, dp.options());
  Tensor ds = wide.narrow(1, 1, columns);
  ds.copy_(dp);
  AT_DISPATCH_FLOATING_TYPES(dp.scalar_type(), "narrow_softmax_backward", [&] {
    for (int64_t h = 0; h < s.share(); ++h) {
      const int64_t at = h * tile.count * (columns + 1);
      // p is the right part of a tensor of the same shape as `wide`.
      narrow_softmax_backward<scalar_t>(p.data_ptr<scalar_t>() - 1 + at,
                                        wide.data_ptr<scalar_t>() + at, tile, s.scale());
    }
  });
  return ds;
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

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& begin,
              const Tensor& sinks, const Shape& s) {
  Tensor out = at::empty({s.batch, s.positions, s.heads, s.value_dim}, q.options());
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
      const Tile tile(s, begin, b, first, count);
      const Tensor sink_p = at::empty({s.sinks ? s.share() * count : 0}, keys.options());
      const Tensor p = tile_probabilities(gather(q, s, b, g, first, count, type), keys, s, tile,
                                          sinks, g, sink_p);
      scatter(at::mm(p, tile.of(values)), out, s, b, g, first, count);
    });
  });
  return out;
}

struct Gradients {
  Tensor q, k, v;
  Tensor sinks;  // [batch, heads] in the accumulate type
};

void tiled_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                    const Tensor& begin, const Tensor& sinks, const Shape& s,
                    const Gradients& out) {
  const at::ScalarType type = accumulate_type(q.scalar_type());
  for_groups(s, [&](int64_t b, int64_t g) {
    const Tensor keys = k.select(0, b).select(1, g).to(type);
    const Tensor values = v.select(0, b).select(1, g).to(type);
    const Tensor dkeys = at::zeros({s.positions, s.dim}, keys.options());
    const Tensor dvalues = at::zeros({s.positions, s.value_dim}, keys.options());
    for_tiles(s, [&](int64_t first, int64_t count) {
      const Tile tile(s, begin, b, first, count);
      const Tensor queries = gather(q, s, b, g, first, count, type);
      const Tensor upstream = gather(dout, s, b, g, first, count, type);
      const Tensor sink_p = at::empty({s.sinks ? s.share() * count : 0}, keys.options());
      const Tensor p = tile_probabilities(queries, keys, s, tile, sinks, g, sink_p);
      const Tensor dp = at::mm(upstream, tile.of(values).t());
      tile.of(dvalues).addmm_(p.t(), upstream);
      if (s.sinks) {
        // The sink's dp is 0, so its ds is −p_sink·⟨dp, p⟩.
        const Tensor ds = (p * dp).sum(1).mul_(sink_p).neg_().view({s.share(), count}).sum(1);
        out.sinks.select(0, b).narrow(0, g * s.share(), s.share()).add_(ds);
      }
      const Tensor ds = tile_backward(p, dp, s, tile);
      tile.of(dkeys).addmm_(ds.t(), queries);
      scatter(at::mm(ds, tile.of(keys)), out.q, s, b, g, first, count);
    });
    out.k.select(0, b).select(1, g).copy_(dkeys);
    out.v.select(0, b).select(1, g).copy_(dvalues);
  });
}

struct CausalAttention : Function<CausalAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        int64_t window, const std::optional<Tensor>& begin_BT,
                        const std::optional<Tensor>& sinks_H) {
    const Tensor begin = begin_BT.value_or(Tensor()), sinks = sinks_H.value_or(Tensor());
    ctx->save_for_backward({q, k, v, begin, sinks});
    ctx->saved_data["window"] = window;
    return attend(q, k, v, begin, sinks, shape_of(q, k, v, window, begin, sinks));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &begin = saved[3], &sinks = saved[4];
    const Shape s = shape_of(q, k, v, ctx->saved_data["window"].toInt(), begin, sinks);
    const Tensor dout = grads[0].contiguous();
    Gradients out = {at::empty_like(q), at::empty_like(k), at::empty_like(v), {}};
    if (!s.is_short()) {
      if (s.sinks) out.sinks = at::zeros({s.batch, s.heads}, sinks.options());
      tiled_backward(q, k, v, dout, begin, sinks, s, out);
      return {out.q, out.k, out.v, {}, {}, s.sinks ? out.sinks.sum(0) : Tensor()};
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
    return {out.q, out.k, out.v, {}, {}, {}};
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionMask& mask) {
  ASHLAR_CHECK(q.dim() == 4 && k.size(2) == v.size(2) && q.size(1) == k.size(1) &&
               v.size(1) == k.size(1) && q.size(3) == k.size(3) && q.size(2) % k.size(2) == 0);
  ASHLAR_CHECK(!mask.begin_BT.defined() ||
               (mask.begin_BT.scalar_type() == at::kInt && mask.begin_BT.is_contiguous() &&
                mask.begin_BT.size(0) == q.size(0) && mask.begin_BT.size(1) == q.size(1)));
  if (!takes_row_kernels(q)) return generic::causal_attention(q, k, v, mask);
  std::optional<Tensor> begin, sinks;
  if (mask.begin_BT.defined()) begin = mask.begin_BT;
  if (mask.sinks_H.defined()) sinks = mask.sinks_H.to(accumulate_type(q.scalar_type()));
  ASHLAR_CHECK(!sinks || sinks->numel() == q.size(2));
  return CausalAttention::apply(q.contiguous(), k.contiguous(), v.contiguous(), mask.window, begin,
                                sinks);
}

Tensor full_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto heads_first = [](const Tensor& x) { return x.transpose(1, 2); };
  return at::scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), {}, 0.0,
                                          false, std::nullopt, q.size(2) != k.size(2))
      .transpose(1, 2);
}

}  // namespace ashlar

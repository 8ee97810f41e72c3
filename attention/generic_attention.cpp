// Causal attention of any device, made of ATen's operations: its fused attention wherever a mask
// can say what is seen, over tiles of queries so that no mask of all pairs exists; with sinks,
// whose logit no mask can say, explicit probabilities of one tile at a time, made again in the
// backward pass. Shape suffixes as in attention/ops.h; S keys of one tile.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/generic_ops.h"
#include "attention/row_dispatch.h"

namespace ashlar::generic {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Queries of a tile.
constexpr int64_t kTile = 256;
// Rows of the batch in one call: GPU kernels lay the batch along a grid axis of 65535.
constexpr int64_t kMostRows = 32768;

struct Tile {
  int64_t first, count;  // queries
  int64_t low, columns;  // keys: what the window of the first query and the last query see
};

template <typename Body>
void for_tiles(int64_t positions, int64_t window, const Body& body) {
  for (int64_t first = 0; first < positions; first += kTile) {
    const int64_t count = std::min(kTile, positions - first);
    const int64_t low = window > 0 ? std::max<int64_t>(0, first - window + 1) : 0;
    body(Tile{first, count, low, first + count - low});
  }
}

// Which keys each query of a tile sees: bool [B or 1, 1, count, S].
Tensor seen(const Tile& tile, int64_t window, const Tensor& begin_BT, const Tensor& like) {
  const auto options = like.options().dtype(at::kLong);
  const Tensor query = at::arange(tile.first, tile.first + tile.count, options).unsqueeze(1);
  const Tensor key = at::arange(tile.low, tile.low + tile.columns, options).unsqueeze(0);
  Tensor out = key <= query;
  if (window > 0) out = out & (key > query - window);
  out = out.view({1, 1, tile.count, tile.columns});
  if (!begin_BT.defined()) return out;
  const Tensor begin = begin_BT.narrow(1, tile.first, tile.count).unsqueeze(1).unsqueeze(3);
  return out & (key >= begin);
}

Tensor heads_first(const Tensor& x) { return x.transpose(1, 2); }

// softmax(q·kᵀ/√E)·v of [B, H, T, E], [B, G, S, E], [B, G, S, F].
Tensor fused(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask) {
  // Fused kernels want values as wide as keys; columns of zeros add nothing.
  const int64_t width = v.size(3), missing = k.size(3) - width;
  const Tensor values = missing > 0 ? at::constant_pad_nd(v, {0, missing}) : v;
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  const Tensor out = at::scaled_dot_product_attention(q, k, values, mask, 0.0, !mask, scale,
                                                      q.size(1) != k.size(1));
  return missing > 0 ? out.narrow(3, 0, width) : out;
}

Tensor fused_rows(const Tensor& q_BTHE, const Tensor& k_BTGE, const Tensor& v_BTGF, int64_t window,
                  const Tensor& begin) {
  const Tensor q = heads_first(q_BTHE), k = heads_first(k_BTGE), v = heads_first(v_BTGF);
  if (window == 0 && !begin.defined()) return heads_first(fused(q, k, v, {}));
  std::vector<Tensor> tiles;
  for_tiles(q.size(2), window, [&](const Tile& tile) {
    tiles.push_back(fused(q.narrow(2, tile.first, tile.count), k.narrow(2, tile.low, tile.columns),
                          v.narrow(2, tile.low, tile.columns), seen(tile, window, begin, q)));
  });
  return heads_first(tiles.size() == 1 ? tiles[0] : at::cat(tiles, 2));
}

// Probabilities of one tile and of the sinks, in the accumulate type.
struct Probabilities {
  Tensor keys;   // [B, G, H/G, count, S]
  Tensor sinks;  // [B, G, H/G, count, 1]
};

struct WithSinks : Function<WithSinks> {
  // Tensors as [B, G, H/G, T, E] and [B, G, 1, T, E] in the accumulate type.
  struct Operands {
    Tensor q, k, v, sinks;
    double scale;

    Tensor part(const Tensor& x, const Tile& t) const { return x.narrow(3, t.low, t.columns); }

    Probabilities of(const Tile& t, int64_t window, const Tensor& begin) const {
      const Tensor scores =
          at::matmul(q.narrow(3, t.first, t.count), part(k, t).transpose(3, 4)).mul_(scale);
      const Tensor hidden = seen(t, window, begin, q).logical_not().unsqueeze(1);
      scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
      const Tensor top = at::maximum(scores.amax({4}, true), sinks);
      const Tensor e = at::sub(scores, top).exp_(), sink = at::sub(sinks, top).exp_();
      const Tensor sum = e.sum({4}, true).add_(sink);
      return {at::div(e, sum), at::div(sink, sum)};
    }
  };

  static Operands operands(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sinks) {
    const at::ScalarType type = accumulate_type(q.scalar_type());
    const int64_t groups = k.size(2);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    return {grouped(q, groups).to(type), grouped(k, groups).to(type), grouped(v, groups).to(type),
            sinks.to(type).view({1, groups, q.size(2) / groups, 1, 1}), scale};
  }
  static Tensor grouped(const Tensor& x_BTHE, int64_t groups) {
    return heads_first(x_BTHE).unflatten(1, {groups, x_BTHE.size(2) / groups});
  }
  static Tensor ungrouped(const Tensor& x, const Tensor& like) {
    return heads_first(x.flatten(1, 2)).to(like.scalar_type()).contiguous();
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& sinks, int64_t window,
                        const std::optional<Tensor>& begin_BT) {
    const Tensor begin = begin_BT.value_or(Tensor());
    ctx->save_for_backward({q, k, v, sinks, begin});
    ctx->saved_data["window"] = window;
    const Operands o = operands(q, k, v, sinks);
    std::vector<Tensor> tiles;
    for_tiles(q.size(1), window, [&](const Tile& t) {
      tiles.push_back(at::matmul(o.of(t, window, begin).keys, o.part(o.v, t)));
    });
    return ungrouped(at::cat(tiles, 3), q);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &sinks = saved[3], &begin = saved[4];
    const int64_t window = ctx->saved_data["window"].toInt();
    const Operands o = operands(q, k, v, sinks);
    const Tensor upstream = grouped(grads[0], k.size(2)).to(o.q.scalar_type());
    const Tensor dk = at::zeros_like(o.k), dv = at::zeros_like(o.v);
    const Tensor dsinks = at::zeros({q.size(2)}, o.q.options());
    std::vector<Tensor> dq;
    for_tiles(q.size(1), window, [&](const Tile& t) {
      const Probabilities p = o.of(t, window, begin);
      const Tensor dout = upstream.narrow(3, t.first, t.count);
      const Tensor dp = at::matmul(dout, o.part(o.v, t).transpose(3, 4));
      const Tensor inner = at::mul(p.keys, dp).sum({4}, true);
      // The sink's dp is 0, so its ds is −p_sink·⟨dp, p⟩.
      dsinks.sub_(at::mul(p.sinks, inner).sum({0, 3, 4}).flatten());
      const Tensor ds = at::sub(dp, inner).mul_(p.keys).mul_(o.scale);
      dq.push_back(at::matmul(ds, o.part(o.k, t)));
      const auto over_heads = [](const Tensor& x) { return x.sum({2}, true); };
      o.part(dk, t).add_(
          over_heads(at::matmul(ds.transpose(3, 4), o.q.narrow(3, t.first, t.count))));
      o.part(dv, t).add_(over_heads(at::matmul(p.keys.transpose(3, 4), dout)));
    });
    return {ungrouped(at::cat(dq, 3), q),
            ungrouped(dk, k),
            ungrouped(dv, v),
            dsinks.to(sinks.scalar_type()),
            {},
            {}};
  }
};

}  // namespace

Tensor causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionMask& mask) {
  const int64_t rows = q.size(0), window = mask.window >= q.size(1) ? 0 : mask.window;
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < rows; at += kMostRows) {
    const int64_t count = std::min(kMostRows, rows - at);
    const auto own = [&](const Tensor& x) {
      return x.defined() && count < rows ? x.narrow(0, at, count) : x;
    };
    const Tensor begin = own(mask.begin_BT);
    if (mask.sinks_H.defined()) {
      std::optional<Tensor> given;
      if (begin.defined()) given = begin;
      parts.push_back(WithSinks::apply(own(q), own(k), own(v), mask.sinks_H, window, given));
    } else {
      parts.push_back(fused_rows(own(q), own(k), own(v), window, begin));
    }
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 0);
}

}  // namespace ashlar::generic

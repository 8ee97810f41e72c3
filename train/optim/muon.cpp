#include <ATen/core/Tensor.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "train/optim/orthogonal.h"
#include "train/optim/rules.h"

namespace ashlar {

using at::Tensor;

// X ← aX + (bA + cA²)X with A = XXᵀ: the quintic polynomial φ(s) = as + bs³ + cs⁵ of every singular
// value (Keller Jordan, "Muon", 2024).
Tensor orthogonalize(const Tensor& matrix, int64_t steps) {
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  // Keeps a matrix of zeros finite, as the original does.
  constexpr double kEpsilon = 1e-7;
  ASHLAR_CHECK_EQ(matrix.dim(), 2);
  // The Gram matrix of the shorter side is the smaller one.
  const bool tall = matrix.size(0) > matrix.size(1);
  Tensor x = tall ? matrix.t().contiguous() : matrix.contiguous();
  x = x.div(x.norm().add(kEpsilon));
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor gram = at::matmul(x, x.t());
    const Tensor polynomial = at::matmul(gram, gram).mul_(c).add_(at::mul(gram, b));
    x = at::matmul(polynomial, x).add_(at::mul(x, a));
  }
  return tall ? x.t() : x;
}

namespace {

constexpr int64_t kNewtonSchulzSteps = 5;

double update_scale(MuonScale scale, const ParameterSpec& p) {
  const auto rows = static_cast<double>(p.shape[0]), cols = static_cast<double>(p.shape[1]);
  return scale == MuonScale::kRms ? 0.2 * std::sqrt(std::max(rows, cols))
                                  : std::sqrt(std::max(1.0, rows / cols));
}

// Muon for matrices (Keller Jordan, 2024; arXiv 2502.16982 §2): M ← μM + G, U = G + μM (Nesterov),
// W ← W − η(s·orthogonalize(U) + λW). Momentum is kept in slices; the whole U of a unit is
// gathered, and each rank orthogonalises the matrices that its slice holds a part of, so that a
// matrix cut in two is computed on both sides, from the same values to the same bits.
class Muon : public Optimizer {
 public:
  Muon(const OptimizerConfig& config, std::vector<ParameterPolicy> policies,
       const std::vector<ParameterSpec>& specs, std::span<const UnitSlice> units)
      : momentum_(config.momentum),
        scale_(config.scale),
        policies_(std::move(policies)),
        specs_(specs),
        pieces_(pieces_of(OptimizerKind::kMuon, policies_, units)) {
    for (const UpdatePiece& piece : pieces_) {
      ASHLAR_CHECK(specs_[piece.piece.parameter].is_matrix());
      state_.push_back(zero_state("muon_momentum", piece, units));
    }
  }

  void step(std::span<const UnitSlice> units, const OptimizerStep& now) override {
    size_t first = 0;
    for (size_t u = 0; u < units.size(); ++u) {
      size_t last = first;
      while (last < pieces_.size() && pieces_[last].unit == u) ++last;
      // Of the unit's parts, not of this rank's pieces: gathering takes every rank.
      if (holds_matrices(*units[u].layout)) step_unit(units[u], u, {first, last}, now);
      first = last;
    }
  }

  const std::vector<OptimizerState>& state() const override { return state_; }

 private:
  struct Span {
    size_t first, last;  // of pieces_
  };

  bool holds_matrices(const UnitLayout& layout) const {
    return std::any_of(layout.parts.begin(), layout.parts.end(), [&](const auto& part) {
      return policies_[part.parameter].kind == OptimizerKind::kMuon;
    });
  }

  void step_unit(const UnitSlice& unit, size_t index, Span own, const OptimizerStep& now) {
    Tensor slice = at::zeros_like(unit.gradients);
    for (size_t i = own.first; i < own.last; ++i) {
      const Tensor gradient = pieces_[i].of(unit.gradients);
      state_[i].values.mul_(momentum_).add_(gradient);
      pieces_[i].of(slice).copy_(gradient).add_(at::mul(state_[i].values, momentum_));
    }
    Tensor whole = slice;
    if (unit.range.size() != unit.layout->size) {
      ASHLAR_CHECK(now.gather != nullptr);
      whole = now.gather(index, slice);
      ASHLAR_CHECK_EQ(whole.numel(), unit.layout->size);
    }
    for (size_t i = own.first; i < own.last; ++i) apply(unit, pieces_[i], whole, now.lr);
  }

  void apply(const UnitSlice& unit, const UpdatePiece& p, const Tensor& whole, double lr) const {
    const ParameterSpec& spec = specs_[p.piece.parameter];
    const ParameterPolicy& policy = policies_[p.piece.parameter];
    const auto& parts = unit.layout->parts;
    const auto part = std::find_if(parts.begin(), parts.end(), [&](const auto& candidate) {
      return candidate.parameter == p.piece.parameter;
    });
    const Tensor matrix = whole.narrow(0, part->offset, part->numel).view(spec.shape);
    const Tensor direction = orthogonalize(matrix, kNewtonSchulzSteps).reshape({part->numel});
    Tensor update =
        at::mul(direction.narrow(0, p.piece.first, p.piece.count), update_scale(scale_, spec));
    Tensor value = p.of(unit.values);
    if (policy.weight_decay != 0) update.add_(at::mul(value, policy.weight_decay));
    value.sub_(update.mul_(lr * policy.lr_scale));
  }

  double momentum_;
  MuonScale scale_;
  std::vector<ParameterPolicy> policies_;
  std::vector<ParameterSpec> specs_;
  std::vector<UpdatePiece> pieces_;
  std::vector<OptimizerState> state_;  // one of each piece
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config,
                                     std::vector<ParameterPolicy> policies,
                                     const std::vector<ParameterSpec>& specs,
                                     std::span<const UnitSlice> units) {
  return std::make_unique<Muon>(config, std::move(policies), specs, units);
}

}  // namespace ashlar

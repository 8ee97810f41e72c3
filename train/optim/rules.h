#pragma once

#include <memory>
#include <span>
#include <vector>

#include "train/optim/optimizer.h"

// Private to train/optim: the algorithms. Each updates the parameters whose policy is of its kind
// and leaves the others alone; make_optimizer puts those of a run together.
//
// Elementwise updates are made of operations with one rounding each, so that a vector lane, the
// scalar tail of a loop and another cut into slices give the same bits.

namespace ashlar {

/// A part of one parameter in one of the units.
struct UpdatePiece {
  size_t unit = 0;
  UnitLayout::Piece piece;
  at::Tensor of(const at::Tensor& flat) const { return flat.narrow(0, piece.at, piece.count); }
};
/// Those that `kind` updates, in the order of units and their storage.
std::vector<UpdatePiece> pieces_of(OptimizerKind kind, std::span<const ParameterPolicy> policies,
                                   std::span<const UnitSlice> units);
/// Zeros like the piece.
OptimizerState zero_state(const char* name, const UpdatePiece& piece,
                          std::span<const UnitSlice> units);

std::unique_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                      std::vector<ParameterPolicy> policies,
                                      std::span<const UnitSlice> units);
std::unique_ptr<Optimizer> make_lion(const OptimizerConfig& config,
                                     std::vector<ParameterPolicy> policies,
                                     std::span<const UnitSlice> units);
std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config,
                                     std::vector<ParameterPolicy> policies,
                                     const std::vector<ParameterSpec>& specs,
                                     std::span<const UnitSlice> units);

}  // namespace ashlar

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "train/optim/optimizer.h"

namespace ashlar {

/// Sums of squares, in double, of each kUnitBlock elements of `flat` (fp32, 1-D, whole blocks). The
/// order of additions inside a block is fixed, so that adding up the blocks of a unit in order
/// gives the same bits however the unit is cut into slices and whatever the number of threads (the
/// device being the same).
std::vector<double> block_squares(const at::Tensor& flat);

/// √ of the sum of `squares` in order.
double norm_of(std::span<const double> squares);

/// Sums of squares by index into parameters(spec): what this rank's slices hold of each.
struct ParameterSquares {
  std::vector<double> values, gradients;
};
/// Added over the ranks that share the units, their roots are the norms of whole parameters: for
/// the log, since the last bits depend on the cut.
ParameterSquares parameter_squares(std::span<const UnitSlice> units, size_t parameters);

}  // namespace ashlar

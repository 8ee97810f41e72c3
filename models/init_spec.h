#pragma once

namespace ashlar {

/// How fresh parameters are drawn. Gains are 1, biases and sinks 0; the Block Transformer's
/// expansion and projection are N(0, 1/√in) (arXiv 2406.02657, its code).
struct InitSpec {
  double deviation = 0.02;  ///< of tables and matrices; CLA's models use 0.01275 (2405.12981 §3)
  /// Projections that write to the residual stream are divided by √(2L), L layers of their stack
  /// (GPT-2); plain: drawn like the others.
  bool scaled_outputs = true;
  bool operator==(const InitSpec&) const = default;
};

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <span>

#include "models/spec/spec.h"

namespace ashlar {

/// Sees what attention computes, for measurements; it changes nothing. Called between steps of one
/// thread.
class AttentionObserver {
 public:
  virtual ~AttentionObserver() = default;
  /// What layer `layer` of the stack `group.stack` gives to its output projection, for the rows of
  /// a step in the order of its sequences: [rows, heads · value_dim].
  virtual void attended(const KvGroup& group, int64_t layer, std::span<const float> out,
                        int64_t rows) = 0;
};

}  // namespace ashlar

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/comm/communicator.h"
#include "train/dist/groups.h"
#include "train/dist/unit_layout.h"

namespace ashlar {

/// The values of one unit on this rank: fp32 master values of its own slice, and a whole copy that
/// the model reads, in the unit's type. ZeRO (arXiv 1910.02054 §5): the whole copy stays at stages
/// 0 to 2, at stage 3 it is there only between acquire() and release().
class ParameterUnit {
 public:
  /// `shapes[i]` belongs to layout.parts[i]; `type` fp32 or bf16. With one rank per copy, whole and
  /// master are the same memory if the types are. On `device`, which `groups` work on.
  ParameterUnit(UnitLayout layout, const std::vector<std::vector<int64_t>>& shapes,
                at::ScalarType type, int zero, const ShardGroups& groups, WaitTally& waits,
                at::Device device = at::kCPU);
  ParameterUnit(const ParameterUnit&) = delete;
  ParameterUnit& operator=(const ParameterUnit&) = delete;

  const UnitLayout& layout() const { return layout_; }
  UnitLayout::Range range() const { return range_; }
  /// fp32 [range().size()]; call changed() after writing.
  const at::Tensor& master() const { return master_; }
  /// The whole copy of part i, in its shape; its memory is there after acquire().
  const at::Tensor& view(size_t part) const { return views_[part]; }

  /// The master values are new: the next gather fetches them. Every rank calls it.
  void changed();
  /// Begins to fetch the whole copy from the other ranks, if it is not current. A collective.
  void begin_gather();
  /// Fetches it and waits.
  void acquire();
  /// Stage 3: gives the memory of the whole copy back.
  void release();

 private:
  UnitLayout layout_;
  UnitLayout::Range range_;
  bool transient_;
  const ShardGroups& groups_;
  WaitTally& waits_;
  at::Tensor master_, whole_, send_;
  std::vector<at::Tensor> views_;
  std::unique_ptr<CommWork> work_;
  bool current_ = false;
};

}  // namespace ashlar

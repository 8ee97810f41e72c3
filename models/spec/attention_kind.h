#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/spec/parameters.h"
#include "models/spec/spec.h"

namespace ashlar {

/// Takes one parameter of a layer: its role and shape.
using EmitParameter = std::function<void(ParameterRole, std::vector<int64_t>)>;

/// One kind of attention as the description of a network sees it. A new kind is one source that
/// defines one of these, and one line in attention_kinds.cpp.
struct AttentionKindInfo {
  std::string_view name;  ///< value of `attention.kind`
  /// Reads the sizes only this kind has. `base` supplies what an override leaves out; null: the
  /// kind is new here and its sizes are required.
  void (*read)(NodeReader& reader, const Node& node, AttentionSpec& a, const AttentionSpec* base);
  /// Writes them.
  void (*write)(const AttentionSpec& a, Node& node);
  /// Why the sizes cannot be, or nothing.
  std::string (*problem)(const AttentionSpec& a);
  /// Fills in what one cached row is: kind, heads, key_dim, value_dim, value_in_key.
  void (*cache)(const AttentionSpec& a, KvGroup& group);
  /// Projections of one layer in canonical order, without sinks and output projection.
  void (*parameters)(const LayerSpec& layer, int64_t d_model, bool owner,
                     const EmitParameter& emit);
  /// Multiply-accumulates per head and visible row when decoding from the cache.
  int64_t (*decode_width)(const AttentionSpec& a);
  /// Elements per position that the backward pass keeps, the stream's own aside.
  int64_t (*saved_elements)(const AttentionSpec& a, bool owner);
};

const AttentionKindInfo& attention_kind(AttentionKind kind);
/// In the order of AttentionKind.
const std::vector<std::string_view>& attention_kind_names();

// One per source; attention_kinds.cpp lists them.
extern const AttentionKindInfo kGroupedAttention;
extern const AttentionKindInfo kLatentAttention;

inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
inline constexpr int64_t kMaxDim = int64_t{1} << 20;

}  // namespace ashlar

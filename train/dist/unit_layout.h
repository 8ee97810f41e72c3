#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

// How parameters lie in flat storage and how ranks share it. No torch here.

namespace ashlar {

/// Parameters begin at multiples of this many elements, slices as well: vectorised loops then treat
/// an element alike however the storage is cut.
inline constexpr int64_t kUnitAlignment = 64;
/// Slices are whole blocks of this many elements: sums over blocks do not depend on the cut.
inline constexpr int64_t kUnitBlock = 4096;

/// Parameters whose values are stored, gathered and reduced together, usually those of one stage.
struct UnitLayout {
  struct Part {
    size_t parameter = 0;  ///< index into parameters(spec)
    int64_t offset = 0;    ///< of its first element in the unit's storage
    int64_t numel = 0;
  };
  /// Elements [begin, end) of the unit's storage.
  struct Range {
    int64_t begin = 0, end = 0;
    int64_t size() const { return end - begin; }
  };
  /// What a range holds of one parameter: elements [first, first + count) of it, at `at` in the
  /// range.
  struct Piece {
    size_t parameter = 0;
    int64_t first = 0, count = 0, at = 0;
  };

  std::string name;
  std::vector<Part> parts;  ///< by offset
  int64_t size = 0;         ///< elements, padding included: a multiple of kUnitBlock · shards

  /// The slice of `shard` of `shards`; equal sizes, so the last ones may hold padding alone.
  Range slice(int64_t shard, int64_t shards) const;
  std::vector<Piece> pieces(Range range) const;
};

/// Lays (parameter, elements) out in that order for at most `shards` slices.
UnitLayout make_unit_layout(std::string name,
                            std::span<const std::pair<size_t, int64_t>> parameters, int64_t shards);

}  // namespace ashlar

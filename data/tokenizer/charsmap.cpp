#include "data/tokenizer/charsmap.h"

#include "core/base/error.h"

namespace ashlar {
namespace {

uint32_t little_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// A unit of the double array (Yata et al. 2007, "A compact static double-array keeping character
// codes"): bits 0-7 the label by which it is reached, bit 8 "an entry ends here", bits 10-31 the
// offset to its children, shifted by 8 if bit 9 is set. The unit at the offset itself (label 0)
// holds an entry's value: bit 31 and the place in the pool.
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xff); }
bool ends_entry(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value(uint32_t unit) { return unit & ~(1u << 31); }

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& where) {
  if (blob.empty()) return;
  const auto good = [&](bool condition) {
    require(condition, ErrorCode::kData, "{}: the character map is damaged", where);
  };
  good(blob.size() > 4);
  const uint32_t trie_bytes = little_endian(blob);
  good(trie_bytes % 4 == 0 && trie_bytes > 0 && trie_bytes < blob.size() - 4);
  for (size_t at = 4; at < 4 + size_t{trie_bytes}; at += 4) {
    units_.push_back(little_endian(blob.substr(at)));
  }
  pool_ = blob.substr(4 + size_t{trie_bytes});
  good(pool_.back() == '\0');
  // Which units are nodes and which are values shows only on the way: longest() checks those.
}

Charsmap::Match Charsmap::longest(std::string_view text) const {
  Match best;
  if (units_.empty()) return best;
  uint32_t node = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!ends_entry(unit)) continue;
    require(node < units_.size() && value(units_[node]) < pool_.size(), ErrorCode::kData,
            "the character map of the vocabulary is damaged");
    best.length = i + 1;
    best.replacement = pool_.c_str() + value(units_[node]);
  }
  return best;
}

}  // namespace ashlar

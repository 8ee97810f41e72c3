#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar {

/// SentencePiece's precompiled character map: texts and what they are replaced by. The blob is
/// the size in bytes of a double-array trie (uint32, little-endian), its units (uint32 each) and
/// the pool of replacements, each ended by a zero byte.
class Charsmap {
 public:
  /// An empty blob replaces nothing. Throws Error(kData) naming `where`.
  Charsmap(std::string_view blob, const std::string& where);

  struct Match {
    size_t length = 0;  ///< bytes replaced; 0: no entry begins the text
    std::string_view replacement;
  };
  /// The longest entry that `text` begins with.
  Match longest(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string pool_;
};

}  // namespace ashlar

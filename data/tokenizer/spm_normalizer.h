#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/charsmap.h"

namespace ashlar {

/// A SentencePiece model's normalizer, as its file says.
struct SpmNormalizerSpec {
  std::string charsmap;       ///< precompiled_charsmap; empty: identity
  bool dummy_prefix = true;   ///< add_dummy_prefix: a space before the text
  bool remove_spaces = true;  ///< remove_extra_whitespaces: at both ends, and repeated ones
  bool escape_spaces = true;  ///< escape_whitespaces: spaces become U+2581
};

/// What SentencePiece does to a text before it looks for pieces, byte by byte the same.
class SpmNormalizer {
 public:
  /// `user_defined`: pieces that pass as they are. Throws Error(kData) naming `where`.
  SpmNormalizer(const SpmNormalizerSpec& spec, std::vector<std::string> user_defined,
                const std::string& where);

  /// `continues`: the text goes on behind another, so that nothing happens at its beginning. A
  /// byte that is no UTF-8 becomes U+FFFD if `lossy` and is else an Error(kData).
  std::string normalize(std::string_view text, bool continues, bool lossy) const;

 private:
  struct Step {
    size_t length = 0;
    std::string_view out;
  };
  Step step(std::string_view text, bool lossy) const;

  Charsmap charsmap_;
  bool dummy_prefix_, remove_spaces_;
  std::string space_;
  std::vector<std::vector<std::string>> user_defined_;  ///< by first byte, longest first
};

}  // namespace ashlar

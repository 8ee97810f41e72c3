#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ashlar {

/// A hand-written matcher of a pattern that many vocabularies have. The pattern, run by PCRE2,
/// stays the definition: tests compare the two.
struct KnownPattern {
  /// Where the piece of `text`, valid UTF-8, that begins at `at` ends, and whether it is a match
  /// of the pattern or a gap. `at` is the beginning or where an earlier piece ended.
  size_t (*piece_end)(std::string_view text, size_t at, bool& is_match);
  /// A letter and a character that is neither letter, mark nor number never share a piece when the
  /// letter comes first, and where the piece that begins with the latter ends depends on nothing
  /// before it.
  bool ends_after_letters = false;
};

/// The Digits pre-tokenizer as a pattern: it knows more numbers than \p{N} does (unicode.h).
std::string digits_pattern(bool individual);

/// nullptr for a pattern without such a matcher.
const KnownPattern* find_known_pattern(std::string_view regex);

}  // namespace ashlar

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace ashlar {

/// The pre-tokenizer of GPT-2 (and of every `ByteLevel` with use_regex).
extern const char* const kGpt2Pattern;

/// A pre-tokenizer's regular expression: written for Oniguruma, run by PCRE2.
///
/// \s and \S become explicit ranges (the engines disagree at U+180E); \p{L}, \p{N} and their kin
/// are PCRE2's, that is Unicode 14 on Debian 12, so characters assigned later may split differently
/// from a newer Python. Constructs on which the engines differ are refused by name, never guessed.
class SplitPattern {
 public:
  /// Throws Error(kData) naming `where` for a pattern that does not compile or that uses a
  /// construct outside the common part of both engines.
  SplitPattern(const std::string& pattern, const std::string& where);
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;

  /// Calls `piece(bytes, is_match)` for every match and every gap between matches, in order; the
  /// pieces concatenate to `text`. Bytes that are not UTF-8 are never matched: each run of them is
  /// a gap of its own. Thread-safe.
  using Piece = std::function<void(std::string_view, bool)>;
  void split(std::string_view text, const Piece& piece) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace ashlar

#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "data/tokenizer/known_patterns.h"

namespace ashlar {

/// The pre-tokenizer of GPT-2 (and of every `ByteLevel` with use_regex).
extern const char* const kGpt2Pattern;

/// A pre-tokenizer's regular expression: written for Oniguruma, run by PCRE2 or, where the pattern
/// is a known one, by a matcher of our own that does the same. Constructs on which the engines
/// differ are refused by name, never guessed (pattern_syntax.h).
class SplitPattern {
 public:
  /// Throws Error(kData) naming `where` for a pattern that does not compile or that uses a
  /// construct outside the common part of both engines. `use_known` false: always PCRE2.
  SplitPattern(const std::string& pattern, const std::string& where, bool use_known = true);
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;

  /// Walks over the pieces of a text: every match and every gap between matches, in order; they
  /// concatenate to the text. Bytes that are not UTF-8 are never matched: each run of them is a gap
  /// of its own, and the valid text beside it is matched as if it were all. Keeps a reference to
  /// the pattern and the text.
  class Pieces {
   public:
    Pieces(const SplitPattern& pattern, std::string_view text) : pattern_(pattern), rest_(text) {}
    /// False at the end.
    bool next(std::string_view& piece, bool& is_match);

   private:
    void next_run();
    bool next_match(std::string_view& piece, bool& is_match);

    const SplitPattern& pattern_;
    std::string_view rest_;       ///< after the run
    std::string_view run_;        ///< valid UTF-8, or not
    bool valid_ = true;           ///< of the run
    size_t done_ = 0;             ///< bytes of the run already handed out
    size_t begin_ = 0, end_ = 0;  ///< of a match found but not yet handed out
  };

  /// The hand-written matcher in use, or nullptr.
  const KnownPattern* known() const { return known_; }

 private:
  struct Code;
  bool find(std::string_view run, size_t start, size_t& begin, size_t& end) const;

  std::unique_ptr<Code> code_;
  const KnownPattern* known_ = nullptr;
};

}  // namespace ashlar

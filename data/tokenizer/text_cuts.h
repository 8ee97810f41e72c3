#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "data/tokenizer/bpe_tokenizer.h"

namespace ashlar {

/// Places where a text may be cut so that its parts, encoded apart, give the ids of the whole.
///
/// A cut lies behind a letter (ASCII, CJK, kana or Hangul) and before a space, a line end or a CJK
/// full stop or comma. It is exact where
/// - no added token holds such a place, and none that strips white space ends with a letter;
/// - the normal forms leave the second character alone and never join it to the first, no Replace
///   but that of single spaces happens, and Prepend concerns the beginning only;
/// - every pre-tokenizer pattern is one of known_patterns.h and one of them ends a piece there, or
///   the vocabulary is merged word by word, no token reaching over the place.
/// Vocabularies for which this does not hold have no cuts.
class TextCuts {
 public:
  /// `joins_word`: BpeTokenizer's.
  TextCuts(const BpeVocabulary& vocabulary, const std::optional<std::array<bool, 256>>& joins_word);

  /// The first cut from `from` > 0 on, or the end of the text.
  size_t next(std::string_view text, size_t from) const;

 private:
  bool splits_allow() const;
  bool words_allow() const;
  bool normalizers_allow() const;
  bool added_tokens_allow() const;
  bool is_letter_before(std::string_view text, size_t at) const;
  bool is_cut(std::string_view text, size_t at) const;

  const BpeVocabulary& vocabulary_;
  const std::optional<std::array<bool, 256>>& joins_word_;
  bool only_spaces_ = false;  ///< a line end or CJK stop begins no word
  bool allowed_ = false;
};

}  // namespace ashlar

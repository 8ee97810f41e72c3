#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the reference tokenizer (Python's `tokenizers` 0.23.3) knows of Unicode, from its own
// experiments and Unicode's data (make_unicode_tables.py): general categories of Unicode 16.0,
// numbers of a later version for Digits, normal forms of Unicode 9.0.

namespace ashlar {

constexpr int32_t kCodePoints = 0x110000;

/// How the pre-tokenizers' patterns tell characters apart.
enum class CharKind : uint8_t { kOther, kLetter, kNumber, kSpace };

/// kCodePoints entries.
const CharKind* char_kinds();

/// A set of code points as sorted ranges [first, last] that neither touch nor overlap.
class CodePointSet {
 public:
  using Range = std::pair<int32_t, int32_t>;

  CodePointSet() = default;
  explicit CodePointSet(std::vector<Range> ranges);  ///< in any order, overlapping or not

  void add(int32_t first, int32_t last);
  void add(const CodePointSet& other);
  CodePointSet complement() const;
  const std::vector<Range>& ranges() const { return ranges_; }
  bool contains(int32_t code_point) const;

 private:
  void tidy();
  std::vector<Range> ranges_;
};

/// The characters of a general category by its short name, "L" or "Lu"; nullopt for another name.
std::optional<CodePointSet> general_category(std::string_view name);
/// Unicode's White_Space property, which is \s of Oniguruma and of Rust. PCRE2's own \s differs at
/// U+180E.
const CodePointSet& white_space();
/// Numbers that the Digits pre-tokenizer knows and \p{N} does not.
CodePointSet digits_pre_tokenizer_extra();

/// Properties of one character in the reference's normal forms. Bit `1 << form` (NFC, NFD, NFKC,
/// NFKD): it may change, or join what is before it. kNewerCharacter: unknown to the normal forms,
/// which leave it alone and never join it to a neighbour.
constexpr uint8_t kNewerCharacter = 16;
/// kCodePoints entries.
const uint8_t* normal_form_flags();

}  // namespace ashlar

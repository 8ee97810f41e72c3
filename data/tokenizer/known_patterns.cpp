#include "data/tokenizer/known_patterns.h"

#include <algorithm>

#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/text.h"
#include "data/tokenizer/unicode.h"

namespace ashlar {
namespace {

/// Reads characters of valid UTF-8 and their kinds.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), kinds_(char_kinds()) {}

  bool at_end(size_t at) const { return at >= text_.size(); }
  char byte(size_t at) const { return at < text_.size() ? text_[at] : '\0'; }

  /// Kind and length of the character at `at` < size.
  CharKind kind(size_t at, size_t& length) const {
    const auto first = static_cast<uint8_t>(text_[at]);
    if (first < 0x80) {
      length = 1;
      return kinds_[first];
    }
    const Utf8Char c = valid_utf8_at(text_, at);
    length = static_cast<size_t>(c.length);
    return kinds_[c.code_point];
  }
  bool is(CharKind wanted, size_t at) const {
    size_t length = 0;
    return at < text_.size() && kind(at, length) == wanted;
  }
  /// The end of the run of `wanted` from `at` on, of at most `most` characters.
  size_t run(CharKind wanted, size_t at, size_t most = SIZE_MAX) const {
    size_t length = 0;
    for (; most > 0 && at < text_.size() && kind(at, length) == wanted; --most) at += length;
    return at;
  }
  size_t newlines(size_t at) const {
    while (byte(at) == '\n' || byte(at) == '\r') ++at;
    return at;
  }

  /// \s+(?!\S)|\s+ where white space begins: all of it at the end of the text, otherwise its last
  /// character is left to what follows.
  size_t white_space(size_t at) const {
    size_t last = at, end = at, length = 0;
    while (end < text_.size() && kind(end, length) == CharKind::kSpace) {
      last = end;
      end += length;
    }
    return end == text_.size() || last == at ? end : last;
  }
  /// Behind the last \r or \n of the white space that begins at `at`, or `at`: \s*[\r\n]+.
  size_t lines(size_t at) const {
    size_t found = at, length = 0;
    for (; at < text_.size() && kind(at, length) == CharKind::kSpace; at += length) {
      if (text_[at] == '\n' || text_[at] == '\r') found = at + 1;
    }
    return found;
  }

 private:
  std::string_view text_;
  const CharKind* kinds_;
};

/// Length of 's|'t|'re|'ve|'m|'ll|'d at the apostrophe `at`, or 0.
size_t contraction(const Scanner& scan, size_t at) {
  const char a = scan.byte(at + 1), b = scan.byte(at + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' || a == 'v') && b == 'e') return 3;
  return a == 'l' && b == 'l' ? 3 : 0;
}

/// The same under (?i:..).
size_t any_case_contraction(const Scanner& scan, size_t at) {
  const auto lower = [&](size_t i) {
    const char c = scan.byte(i);
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char a = lower(at + 1), b = lower(at + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' || a == 'v') && b == 'e') return 3;
  if (a == '\xc5' && b == '\xbf') return 3;  // U+017F folds to s
  return a == 'l' && b == 'l' ? 3 : 0;
}

/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_piece(std::string_view text, size_t at, bool& is_match) {
  const Scanner scan(text);
  is_match = true;
  if (text[at] == '\'') {
    if (const size_t length = contraction(scan, at)) return at + length;
  }
  const size_t body = at + (text[at] == ' ' ? 1 : 0);
  if (!scan.at_end(body)) {
    size_t length = 0;
    const CharKind kind = scan.kind(body, length);
    if (kind != CharKind::kSpace) return scan.run(kind, body + length);
  }
  return scan.white_space(at);
}

/// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
/// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
template <size_t digits>
size_t cl100k_piece(std::string_view text, size_t at, bool& is_match) {
  const Scanner scan(text);
  is_match = true;
  const char first = text[at];
  if (first == '\'') {
    if (const size_t length = any_case_contraction(scan, at)) return at + length;
  }
  size_t length = 0;
  const CharKind kind = scan.kind(at, length);
  if (kind == CharKind::kLetter) return scan.run(kind, at + length);
  if (kind == CharKind::kNumber) return scan.run(kind, at + length, digits - 1);
  if (first != '\r' && first != '\n' && scan.is(CharKind::kLetter, at + length)) {
    return scan.run(CharKind::kLetter, at + length);
  }
  const size_t body = at + (first == ' ' ? 1 : 0);
  if (scan.is(CharKind::kOther, body)) {
    return scan.newlines(scan.run(CharKind::kOther, body));
  }
  const size_t lines = scan.lines(at);
  return lines > at ? lines : scan.white_space(at);
}

const CodePointSet& extra_numbers() {
  static const CodePointSet set = digits_pre_tokenizer_extra();
  return set;
}

/// \p{N} and \p{N}+, or with `extra` the Digits pre-tokenizer.
template <size_t most, bool extra>
size_t number_piece(std::string_view text, size_t at, bool& is_match) {
  const Scanner scan(text);
  const auto is_number = [&](size_t i, size_t& length) {
    const CharKind kind = scan.kind(i, length);
    if (!extra || kind != CharKind::kOther || length == 1) return kind == CharKind::kNumber;
    return extra_numbers().contains(valid_utf8_at(text, i).code_point);
  };
  size_t length = 0;
  is_match = is_number(at, length);
  size_t count = 0;
  do {
    at += length;
    ++count;
  } while (at < text.size() && (!is_match || count < most) && is_number(at, length) == is_match);
  return at;
}

struct Entry {
  std::string regex;
  KnownPattern pattern;
};

constexpr const char* kCl100k3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kCl100k1 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace

std::string digits_pattern(bool individual) {
  std::string out = R"([\p{N})";
  for (const auto& [first, last] : extra_numbers().ranges()) {
    append_utf8(out, first);
    if (last > first) out += '-';
    if (last > first) append_utf8(out, last);
  }
  return out + (individual ? "]" : "]+");
}

const KnownPattern* find_known_pattern(std::string_view regex) {
  static const Entry entries[] = {
      {kGpt2Pattern, {gpt2_piece, true}},
      {kCl100k3, {cl100k_piece<3>, true}},
      {kCl100k1, {cl100k_piece<1>, true}},
      {R"(\p{N})", {number_piece<1, false>, false}},
      {R"(\p{N}+)", {number_piece<SIZE_MAX, false>, false}},
      {digits_pattern(true), {number_piece<1, true>, false}},
      {digits_pattern(false), {number_piece<SIZE_MAX, true>, false}},
  };
  const auto found = std::find_if(std::begin(entries), std::end(entries),
                                  [&](const Entry& entry) { return entry.regex == regex; });
  return found == std::end(entries) ? nullptr : &found->pattern;
}

}  // namespace ashlar

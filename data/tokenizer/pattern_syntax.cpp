#include "data/tokenizer/pattern_syntax.h"

#include <cctype>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "data/tokenizer/text.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unicode.h"

namespace ashlar {
namespace {

bool is_punctuation(char c) {
  return static_cast<unsigned char>(c) < 0x80 && std::ispunct(static_cast<unsigned char>(c)) != 0;
}

/// PCRE2's UTF mode knows no surrogates: nothing in valid UTF-8 is one.
std::string bracket(const CodePointSet& set) {
  std::string out = "[";
  for (auto [first, last] : set.ranges()) {
    if (first >= 0xd800 && first <= 0xdfff) first = 0xe000;
    if (last >= 0xd800 && last <= 0xdfff) last = 0xd7ff;
    if (first > last) continue;
    out += first == last ? fmt::format("\\x{{{:x}}}", first)
                         : fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", first, last);
  }
  if (out.size() == 1) return "(?!)";
  out += ']';
  return out;
}

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorCode::kData, "{}: pattern uses {} at byte {}, which is not supported", where_, what,
         at_);
  }
  bool next_is(std::string_view text) const { return in_.compare(at_, text.size(), text) == 0; }
  char peek(size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  void copy(size_t n = 1) {
    out_.append(in_, at_, n);
    at_ += n;
  }

  void step() {
    const char c = in_[at_];
    const bool letter = std::isalpha(static_cast<unsigned char>(c)) != 0;
    if (!letter) last_letter_ = '\0';
    if (c == '\\') {
      escape();
    } else if (c == '[') {
      if (no_case()) refuse("brackets under (?i:");
      read_bracket();
    } else if (c == '(') {
      group();
    } else if (c == ')') {
      if (groups_.empty()) refuse("a lone )");
      groups_.pop_back();
      copy();
    } else if (no_case() && (letter || static_cast<unsigned char>(c) >= 0x80)) {
      folded(c);
    } else {
      plain(c);
    }
  }

  bool no_case() const { return !groups_.empty() && groups_.back(); }

  void plain(char c) {
    if (c == '^' || c == '$') refuse(fmt::format("the anchor {}", c));  // Ruby's line anchors
    if (c == '.') refuse("the dot");                                    // what ends a line differs
    // Possessive in PCRE2, a repeated group in Oniguruma.
    if (c == '}' && peek(1) == '+') refuse("{n,m}+");
    copy();
  }

  /// A letter in any case. Oniguruma also folds pairs (ss and U+00DF): not here.
  void folded(char c) {
    if (static_cast<unsigned char>(c) >= 0x80) refuse("letters beyond ASCII under (?i:");
    const char lower = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    for (std::string_view pair : {"ss", "st", "ff", "fi", "fl"}) {
      if (last_letter_ == pair[0] && lower == pair[1]) refuse(fmt::format("'{}' under (?i:", pair));
    }
    last_letter_ = lower;
    CodePointSet set({{lower, lower}, {lower - 32, lower - 32}});
    if (lower == 's') set.add(0x17f, 0x17f);
    if (lower == 'k') set.add(0x212a, 0x212a);
    out_ += bracket(set);
    ++at_;
  }

  void group() {
    bool inherits = no_case();
    if (next_is("(?")) {
      for (std::string_view known : {"(?:", "(?!", "(?=", "(?i:", "(?>", "(?<!", "(?<="}) {
        if (!next_is(known)) continue;
        groups_.push_back(inherits || known == "(?i:");
        out_ += known == "(?i:" ? "(?:" : known;
        at_ += known.size();
        return;
      }
      refuse(fmt::format("the group {}", in_.substr(at_, 4)));
    }
    if (next_is("(*")) refuse("the verb (*");
    groups_.push_back(inherits);
    copy();
  }

  /// \p{..}, \s, \d and their complements; at_ is behind it. False for another escape.
  bool read_class(CodePointSet& set) {
    const char c = peek(1);
    if (c == 's' || c == 'S' || c == 'd' || c == 'D') {
      const bool space = c == 's' || c == 'S';
      const CodePointSet plain = space ? white_space() : *general_category("Nd");
      set = c == 'S' || c == 'D' ? plain.complement() : plain;
      at_ += 2;
      return true;
    }
    if (c != 'p' && c != 'P') return false;
    const size_t close = in_.find('}', at_);
    if (peek(2) != '{' || close == std::string::npos) refuse("\\p without braces");
    if (peek(3) == '^') refuse("\\p{^...}");
    const std::string name = in_.substr(at_ + 3, close - at_ - 3);
    const std::optional<CodePointSet> named = general_category(name);
    if (!named) refuse(fmt::format("\\p{{{}}}, no general category,", to_valid_utf8(name)));
    set = c == 'P' ? named->complement() : *named;
    at_ = close + 1;
    return true;
  }

  /// The character that an escape stands for.
  int32_t escaped() {
    const char c = peek(1);
    if (c == '\0') refuse("a trailing backslash");
    int32_t value = c;
    if (c == 'n') value = '\n';
    if (c == 'r') value = '\r';
    if (c == 't') value = '\t';
    if (value == c && !is_punctuation(c)) refuse(fmt::format("\\{}", to_valid_utf8({&c, 1})));
    at_ += 2;
    return value;
  }

  void escape() {
    CodePointSet set;
    const size_t begin = at_;
    if (read_class(set)) {
      if (no_case()) refuse("a class under (?i:");
      out_ += bracket(set);
      return;
    }
    escaped();
    out_.append(in_, begin, at_ - begin);
  }

  int32_t bracket_character() {
    if (in_[at_] == '\\') return escaped();
    if (in_[at_] == '[') refuse("nested brackets");
    if (next_is("&&")) refuse("bracket intersection");
    const Utf8Char c = utf8_at(in_, at_);
    if (c.code_point < 0) refuse("bytes that are not UTF-8");
    at_ += static_cast<size_t>(c.length);
    return c.code_point;
  }

  void read_bracket() {
    CodePointSet set;
    ++at_;
    const bool negated = peek(0) == '^';
    if (negated) ++at_;
    if (peek(0) == ']') refuse("an empty bracket");
    while (peek(0) != ']') {
      if (at_ >= in_.size()) refuse("an open bracket");
      CodePointSet part;
      if (in_[at_] == '\\' && read_class(part)) {
        if (peek(0) == '-' && peek(1) != ']') refuse("a range from a class");
        set.add(part);
        continue;
      }
      const int32_t first = bracket_character();
      int32_t last = first;
      if (peek(0) == '-' && peek(1) != ']' && at_ + 1 < in_.size()) {
        ++at_;
        if (in_[at_] == '\\' && read_class(part)) refuse("a range to a class");
        last = bracket_character();
        if (last < first) refuse("an empty range");
      }
      set.add(first, last);
    }
    ++at_;
    out_ += bracket(negated ? set.complement() : set);
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  std::vector<bool> groups_;  ///< per open group: under (?i:
  char last_letter_ = '\0';   ///< under (?i:, of the character just before
};

}  // namespace

std::string to_pcre2(const std::string& pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace ashlar

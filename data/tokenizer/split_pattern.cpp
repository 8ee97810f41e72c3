#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/split_pattern.h"

#include <pcre2.h>

#include "core/base/error.h"
#include "data/tokenizer/text.h"

namespace ashlar {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

constexpr const char* kSpaceRanges =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// Rewrites an Oniguruma pattern for PCRE2, or throws.
class Translator {
 public:
  Translator(const std::string& pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (bracket_) {
        in_bracket(c);
      } else {
        outside(c);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorCode::kData, "{}: pattern uses {} at byte {}, which is not supported", where_, what,
         at_);
  }
  bool next_is(std::string_view text) const { return in_.compare(at_, text.size(), text) == 0; }
  void copy(size_t n = 1) {
    out_.append(in_, at_, n);
    at_ += n;
  }

  void escape() {
    if (at_ + 1 >= in_.size()) refuse("a trailing backslash");
    const char c = in_[at_ + 1];
    if (c == 's') {
      out_ += bracket_ ? std::string(kSpaceRanges) : "[" + std::string(kSpaceRanges) + "]";
      at_ += 2;
    } else if (c == 'S') {
      if (bracket_) refuse("\\S inside brackets");
      out_ += "[^" + std::string(kSpaceRanges) + "]";
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      const size_t close = in_.find('}', at_);
      if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string::npos) {
        refuse("\\p without braces");
      }
      if (in_[at_ + 3] == '^') refuse("\\p{^...}");
      copy(close + 1 - at_);
    } else if (c == 'r' || c == 'n' || c == 't' || c == 'd' || c == 'D') {
      copy(2);
    } else if (static_cast<unsigned char>(c) < 0x80 &&
               std::ispunct(static_cast<unsigned char>(c))) {
      copy(2);
    } else {
      refuse(std::string("\\") + c);
    }
  }

  void in_bracket(char c) {
    if (c == '[') refuse("nested brackets");
    if (next_is("&&")) refuse("bracket intersection");
    if (c == ']') bracket_ = false;
    copy();
  }

  void outside(char c) {
    if (c == '[') {
      bracket_ = true;
      copy(next_is("[^") ? 2 : 1);
      if (at_ < in_.size() && in_[at_] == ']') refuse("an empty bracket");
    } else if (c == '^' || c == '$') {
      refuse(std::string("the anchor ") + c);  // line anchors in Oniguruma's Ruby syntax
    } else if (c == '(' && next_is("(?")) {
      group();
    } else if (c == '}' && at_ + 1 < in_.size() && in_[at_ + 1] == '+') {
      refuse("{n,m}+");  // possessive in PCRE2, a repeated group in Oniguruma
    } else if (c == '.') {
      refuse("the dot");  // what ends a line differs
    } else {
      copy();
    }
  }

  void group() {
    for (std::string_view known : {"(?:", "(?!", "(?=", "(?i:", "(?>", "(?<!", "(?<="}) {
      if (next_is(known)) return copy(known.size());
    }
    refuse("the group " + in_.substr(at_, 4));
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool bracket_ = false;
};

struct MatchData {
  pcre2_match_data* data = nullptr;
  ~MatchData() { pcre2_match_data_free(data); }
};

}  // namespace

struct SplitPattern::Code {
  pcre2_code* code = nullptr;
  std::string where;
  ~Code() { pcre2_code_free(code); }
};

SplitPattern::SplitPattern(const std::string& pattern, const std::string& where)
    : code_(std::make_unique<Code>()) {
  require(!pattern.empty(), ErrorCode::kData, "{}: empty pattern", where);
  code_->where = where;
  const std::string translated = Translator(pattern, where).run();
  int error = 0;
  size_t offset = 0;
  code_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code_->code == nullptr) {
    PCRE2_UCHAR text[160] = {};
    pcre2_get_error_message(error, text, sizeof text);
    fail(ErrorCode::kData, "{}: pattern does not compile: {}", where,
         reinterpret_cast<const char*>(text));
  }
  // Without a just-in-time compiler the interpreter runs: the same matches, only slower.
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
}

SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;

void SplitPattern::split(std::string_view text, const Piece& piece) const {
  thread_local MatchData match{pcre2_match_data_create(1, nullptr)};
  require(match.data != nullptr, ErrorCode::kResource, "out of memory in the pre-tokenizer");
  for (size_t position = 0; position < text.size();) {
    const Utf8Run run = next_utf8_run(text, position);
    position += run.bytes.size();
    if (!run.valid) {
      piece(run.bytes, false);
      continue;
    }
    size_t done = 0;   // bytes of the run already handed out
    size_t start = 0;  // where the next match may begin
    while (start < run.bytes.size()) {
      const int count =
          pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(run.bytes.data()), run.bytes.size(),
                      start, PCRE2_NO_UTF_CHECK, match.data, nullptr);
      if (count == PCRE2_ERROR_NOMATCH) break;
      require(count > 0 || count == 0, ErrorCode::kResource,
              "{}: pattern exceeds PCRE2's limits on this text (error {})", code_->where, count);
      // Copies: `piece` may split what it gets by another pattern, which uses the same match data.
      const size_t begin = pcre2_get_ovector_pointer(match.data)[0];
      const size_t end = pcre2_get_ovector_pointer(match.data)[1];
      if (end == begin) {  // an empty match takes nothing
        start = end + static_cast<size_t>(utf8_at(run.bytes, end).length);
        continue;
      }
      if (begin > done) piece(run.bytes.substr(done, begin - done), false);
      piece(run.bytes.substr(begin, end - begin), true);
      done = start = end;
    }
    if (done < run.bytes.size()) piece(run.bytes.substr(done), false);
  }
}

}  // namespace ashlar

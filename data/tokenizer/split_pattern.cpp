#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/split_pattern.h"

#include <pcre2.h>

#include "core/base/error.h"
#include "data/tokenizer/pattern_syntax.h"
#include "data/tokenizer/text.h"

namespace ashlar {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

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

SplitPattern::SplitPattern(const std::string& pattern, const std::string& where, bool use_known)
    : code_(std::make_unique<Code>()) {
  require(!pattern.empty(), ErrorCode::kData, "{}: empty pattern", where);
  code_->where = where;
  if (use_known) known_ = find_known_pattern(pattern);
  if (known_ != nullptr) return;
  const std::string translated = to_pcre2(pattern, where);
  int error = 0;
  size_t offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
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

bool SplitPattern::find(std::string_view run, size_t start, size_t& begin, size_t& end) const {
  thread_local MatchData match{pcre2_match_data_create(1, nullptr)};
  require(match.data != nullptr, ErrorCode::kResource, "out of memory in the pre-tokenizer");
  while (start < run.size()) {
    const int count = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(run.data()), run.size(),
                                  start, PCRE2_NO_UTF_CHECK, match.data, nullptr);
    if (count == PCRE2_ERROR_NOMATCH) return false;
    require(count >= 0, ErrorCode::kResource,
            "{}: pattern exceeds PCRE2's limits on this text (error {})", code_->where, count);
    begin = pcre2_get_ovector_pointer(match.data)[0];
    end = pcre2_get_ovector_pointer(match.data)[1];
    if (end > begin) return true;
    if (end == run.size()) return false;
    start = end + static_cast<size_t>(utf8_at(run, end).length);  // an empty match takes nothing
  }
  return false;
}

void SplitPattern::Pieces::next_run() {
  const Utf8Run run = next_utf8_run(rest_, 0);
  run_ = run.bytes;
  valid_ = run.valid;
  rest_.remove_prefix(run_.size());
  done_ = begin_ = end_ = 0;
}

bool SplitPattern::Pieces::next(std::string_view& piece, bool& is_match) {
  if (done_ == run_.size()) {
    if (rest_.empty()) return false;
    next_run();
  }
  if (!valid_) {
    piece = run_;
    is_match = false;
    done_ = run_.size();
    return true;
  }
  if (pattern_.known_ == nullptr) return next_match(piece, is_match);
  const size_t end = pattern_.known_->piece_end(run_, done_, is_match);
  piece = run_.substr(done_, end - done_);
  done_ = end;
  return true;
}

bool SplitPattern::Pieces::next_match(std::string_view& piece, bool& is_match) {
  if (end_ <= done_ && !pattern_.find(run_, done_, begin_, end_)) begin_ = end_ = run_.size();
  is_match = begin_ == done_;
  const size_t end = is_match ? end_ : begin_;
  piece = run_.substr(done_, end - done_);
  done_ = end;
  return true;
}

}  // namespace ashlar

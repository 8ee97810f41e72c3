#include "data/tokenizer/text_cuts.h"

#include <algorithm>

#include "data/tokenizer/text.h"

namespace ashlar {
namespace {

/// Letters that stay letters, alone, in every normal form.
bool is_plain_letter(int32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= 0x4e00 && c <= 0x9fff) ||
         (c >= 0x3041 && c <= 0x3096) || (c >= 0x30a1 && c <= 0x30fa) ||
         (c >= 0xac00 && c <= 0xd7a3);
}

constexpr std::string_view kFullStop = "\xe3\x80\x82", kComma = "\xe3\x80\x81";  // U+3002, U+3001

}  // namespace

TextCuts::TextCuts(const BpeVocabulary& vocabulary,
                   const std::optional<std::array<bool, 256>>& joins_word)
    : vocabulary_(vocabulary), joins_word_(joins_word), only_spaces_(!vocabulary.byte_level) {
  allowed_ = (vocabulary.byte_level ? splits_allow() : words_allow()) && normalizers_allow() &&
             added_tokens_allow();
}

bool TextCuts::splits_allow() const {
  bool ends = false;
  for (const SplitStep& split : vocabulary_.splits) {
    if (split.prefix_space) return false;
    if (split.pattern == nullptr) continue;
    const KnownPattern* known = split.pattern->known();
    if (known == nullptr || (split.matches_only && !known->ends_after_letters)) return false;
    ends |= known->ends_after_letters;
  }
  return ends;
}

bool TextCuts::words_allow() const {
  const std::optional<Metaspace>& meta = vocabulary_.metaspace;
  if (!vocabulary_.splits.empty() || (meta && meta->replacement != kWordStart)) return false;
  return joins_word_.has_value();
}

bool TextCuts::normalizers_allow() const {
  return std::all_of(vocabulary_.normalizers.begin(), vocabulary_.normalizers.end(),
                     [&](const NormalizerStep& step) {
                       if (step.kind != NormalizerStep::Kind::kReplace) return true;
                       return only_spaces_ && step.from == " " && step.to == kWordStart;
                     }) &&
         (!only_spaces_ || vocabulary_.metaspace ||
          std::any_of(vocabulary_.normalizers.begin(), vocabulary_.normalizers.end(),
                      [](const NormalizerStep& step) {
                        return step.kind == NormalizerStep::Kind::kReplace;
                      }));
}

bool TextCuts::added_tokens_allow() const {
  for (const AddedToken& token : vocabulary_.added) {
    const std::string& text = token.content;
    for (size_t at = 1; at < text.size(); ++at) {
      if (is_cut(text, at) || text.compare(at, 3, kWordStart) == 0) return false;
    }
    if (token.rstrip && is_letter_before(text, text.size())) return false;
  }
  return true;
}

bool TextCuts::is_letter_before(std::string_view text, size_t at) const {
  size_t begin = at - 1;
  if (static_cast<uint8_t>(text[begin]) >= 0x80) {
    if (at < 3) return false;
    begin = at - 3;
  }
  const Utf8Char c = utf8_at(text, begin);
  if (begin + static_cast<size_t>(c.length) != at || !is_plain_letter(c.code_point)) return false;
  return !only_spaces_ || !joins_word_ || !(*joins_word_)[static_cast<uint8_t>(text[at - 1])];
}

bool TextCuts::is_cut(std::string_view text, size_t at) const {
  const bool begins =
      text[at] == ' ' || (!only_spaces_ && (text[at] == '\n' || text.substr(at, 3) == kFullStop ||
                                            text.substr(at, 3) == kComma));
  return begins && is_letter_before(text, at);
}

size_t TextCuts::next(std::string_view text, size_t from) const {
  if (!allowed_) return text.size();
  while (from < text.size() && !is_cut(text, from)) ++from;
  return from;
}

}  // namespace ashlar

#include "data/tokenizer/spm_normalizer.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/text.h"

namespace ashlar {

SpmNormalizer::SpmNormalizer(const SpmNormalizerSpec& spec, std::vector<std::string> user_defined,
                             const std::string& where)
    : charsmap_(spec.charsmap, where),
      dummy_prefix_(spec.dummy_prefix),
      remove_spaces_(spec.remove_spaces),
      space_(spec.escape_spaces ? kWordStart : " "),
      user_defined_(256) {
  std::stable_sort(user_defined.begin(), user_defined.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (std::string& piece : user_defined) {
    user_defined_[static_cast<uint8_t>(piece.at(0))].push_back(std::move(piece));
  }
}

SpmNormalizer::Step SpmNormalizer::step(std::string_view text, bool lossy) const {
  const auto first = static_cast<uint8_t>(text[0]);
  for (const std::string& piece : user_defined_[first]) {
    if (text.starts_with(piece)) return {piece.size(), text.substr(0, piece.size())};
  }
  if (const Charsmap::Match match = charsmap_.longest(text); match.length > 0) {
    return {match.length, match.replacement};
  }
  const Utf8Char c = utf8_at(text, 0);
  const auto length = static_cast<size_t>(c.length);
  if (c.code_point >= 0) return {length, text.substr(0, length)};
  require(lossy, ErrorCode::kData, "the vocabulary has no token for byte 0x{:02X} outside UTF-8",
          first);
  return {1, "\xef\xbf\xbd"};
}

std::string SpmNormalizer::normalize(std::string_view text, bool continues, bool lossy) const {
  if (remove_spaces_ && !continues) {
    while (!text.empty()) {
      const Step leading = step(text, lossy);
      if (leading.out != " ") break;
      text.remove_prefix(leading.length);
    }
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2 + space_.size());
  if (dummy_prefix_ && !continues) out += space_;
  bool after_space = remove_spaces_ && !continues;
  while (!text.empty()) {
    Step next = step(text, lossy);
    while (after_space && next.out.starts_with(' ')) next.out.remove_prefix(1);
    for (char c : next.out) {
      if (c == ' ') {
        out += space_;
      } else {
        out += c;
      }
    }
    // What became nothing leaves the question as it was.
    if (!next.out.empty()) after_space = remove_spaces_ && next.out.ends_with(' ');
    text.remove_prefix(next.length);
  }
  if (remove_spaces_) {
    while (out.ends_with(space_)) out.resize(out.size() - space_.size());
  }
  return out;
}

}  // namespace ashlar

#include "data/tokenizer/added_tokens.h"

#include <algorithm>

#include "data/tokenizer/text.h"

namespace ashlar {

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  const auto first_byte = [](const AddedToken& token) {
    return static_cast<uint8_t>(token.content[0]);
  };
  std::stable_sort(tokens_.begin(), tokens_.end(), [&](const AddedToken& a, const AddedToken& b) {
    if (first_byte(a) != first_byte(b)) return first_byte(a) < first_byte(b);
    return a.content.size() > b.content.size();
  });
  first_.assign(256, {0, 0});
  for (size_t i = 0; i < tokens_.size(); ++i) {
    auto& range = first_[first_byte(tokens_[i])];
    if (range.second == 0) range.first = i;
    range.second = i + 1;
  }
  pairs_.assign(1 << 16, 0);
  for (const AddedToken& token : tokens_) {
    const size_t row = size_t{first_byte(token)} << 8;
    if (token.content.size() > 1) {
      pairs_[row | static_cast<uint8_t>(token.content[1])] = 1;
    } else {
      std::fill_n(pairs_.begin() + static_cast<std::ptrdiff_t>(row), 256, uint8_t{1});
    }
  }
}

size_t AddedTokenFinder::next_candidate(std::string_view text, size_t position) const {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  for (; position + 1 < text.size(); ++position) {
    if (pairs_[size_t{bytes[position]} << 8 | bytes[position + 1]] != 0) break;
  }
  return position;
}

const AddedToken* AddedTokenFinder::match(std::string_view text, size_t position,
                                          bool plain) const {
  const auto& range = first_[static_cast<uint8_t>(text[position])];
  for (size_t i = range.first; i < range.second; ++i) {
    const AddedToken& token = tokens_[i];
    if (plain && token.special) continue;
    if (text.compare(position, token.content.size(), token.content) == 0) return &token;
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, bool plain, const Piece& piece) const {
  size_t done = 0;
  if (!tokens_.empty()) {
    for (size_t at = next_candidate(text, 0); at < text.size(); at = next_candidate(text, at)) {
      const AddedToken* token = match(text, at, plain);
      if (token == nullptr) {
        ++at;
        continue;
      }
      const size_t begin = token->lstrip ? white_space_before(text, done, at) : at;
      at += token->content.size();
      const size_t end = token->rstrip ? white_space_after(text, at) : at;
      if (begin > done) piece(text.substr(done, begin - done), nullptr);
      piece(text.substr(begin, end - begin), token);
      done = at = end;
    }
  }
  if (done < text.size()) piece(text.substr(done), nullptr);
}

}  // namespace ashlar

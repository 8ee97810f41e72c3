#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar {

/// A token that is cut out of the text before anything else looks at it.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     ///< structure, not text: left out of decoded text
  bool normalized = false;  ///< searched after normalisation, with its content normalised
  bool lstrip = false;      ///< takes the white space before it
  bool rstrip = false;      ///< takes the white space after it
};

/// Finds added tokens: from the left, the longest at each place (as Hugging Face's automaton).
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }
  /// Calls `piece(bytes, token)` in order; token is null for the text between tokens. With
  /// `plain`, special tokens are not looked for.
  using Piece = std::function<void(std::string_view, const AddedToken*)>;
  void split(std::string_view text, bool plain, const Piece& piece) const;

 private:
  const AddedToken* match(std::string_view text, size_t position, bool plain) const;
  size_t next_candidate(std::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;                ///< by first byte, then longest first
  std::vector<std::pair<size_t, size_t>> first_;  ///< range of tokens_ per first byte
  std::vector<uint8_t> pairs_;                    ///< 1: some token begins with these two bytes
};

}  // namespace ashlar

#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/spm_vocabulary.h"

namespace ashlar {

/// SentencePiece's Unigram model (Kudo 2018, arXiv 1804.10959): of all ways to write a text in
/// pieces the one with the highest sum of scores. Ties and rounding are those of the library: sums
/// along a path are kept in float, counted anew from time to time, and of equal ones the piece that
/// begins first stays.
class UnigramModel {
 public:
  /// `pieces` by id, exactly one of kind kUnknown; normal and user-defined ones take part.
  explicit UnigramModel(const std::vector<SpmVocabulary::Piece>& pieces);

  struct Span {
    size_t begin = 0, end = 0;  ///< bytes of the text
    int32_t id = 0;
  };
  /// The best path in order. A character that is no piece is the unknown token's, at 10 below the
  /// lowest score. Time is linear in the text, times the longest piece.
  std::vector<Span> best_path(std::string_view text) const;

 private:
  struct Node {
    int32_t first = 0, count = 0;  ///< children: consecutive nodes, by label
    int32_t id = -1;               ///< piece that ends here
    uint8_t label = 0;
  };
  int32_t child(int32_t node, uint8_t label) const;
  void build_trie(const std::vector<SpmVocabulary::Piece>& pieces);

  std::vector<Node> nodes_;
  std::array<int32_t, 256> root_{};  ///< children of the root, −1: none
  std::vector<float> scores_;        ///< by id
  float unknown_score_ = 0;
  int32_t unknown_ = 0;
};

}  // namespace ashlar

#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/bpe_model.h"

namespace ashlar {

/// A token of a vocabulary that orders merges by score (SentencePiece, llama2.c).
struct ScoredPiece {
  float score = 0;
  std::string bytes;
  bool merges = true;  ///< false: no merge makes it or takes it (control, byte, user-defined)
};

/// The rule "of all adjacent pairs merge the one whose joined piece has the highest score, the
/// leftmost on ties" as merge ranks.
struct ScoreMerges {
  /// Pairs that build pieces of equal score share a rank: exactly the rule.
  std::vector<BpeModel::Merge> shared;
  /// The same as a strict order: what a tokenizer.json can say.
  std::vector<BpeModel::Merge> strict;
  /// The first piece for which the strict order may give another result on some text, or "".
  std::string doubtful;
};

/// Throws Error(kData) naming `file` for a piece listed twice or a mergeable one over 1024 bytes.
ScoreMerges merges_by_score(const std::vector<ScoredPiece>& pieces, const std::string& file);

}  // namespace ashlar

#include "eval/scorer.h"

#include "core/base/error.h"

namespace ashlar {

void check_text(const Scorer& scorer, const ScoreText& text) {
  const auto n = static_cast<int64_t>(text.tokens.size());
  require(n >= 1 && n <= scorer.context_length(), ErrorCode::kRequest,
          "a text of {} tokens: must be 1 to the model's context of {}", n,
          scorer.context_length());
  require(text.scored < n, ErrorCode::kRequest, "a text of {} tokens has none behind the first {}",
          n, text.scored);
  ASHLAR_CHECK_GE(text.scored, text.marker ? 0 : 1);
  for (int32_t token : text.tokens) {
    require(token >= 0 && token < scorer.vocab_size(), ErrorCode::kRequest,
            "token {} is outside the model's vocabulary of {}", token, scorer.vocab_size());
  }
}

}  // namespace ashlar

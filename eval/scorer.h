#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/node.h"
#include "eval/arm.h"

namespace ashlar {

/// A text to score, as ids.
struct ScoreText {
  std::vector<int32_t> tokens;
  int64_t scored = 0;  ///< tokens from here on are scored: at least 1 without a marker
  /// The architecture's start marker stands in front, one EOS for a decoder and one block of EOS
  /// for a Block Transformer, so that all architectures score the same tokens. Without it a
  /// decoder's text begins bare.
  bool marker = true;
  /// Tokens that are read as one prompt; a cache policy acts when they are in, and after each later
  /// token, which come one by one. −1: the whole text is the prompt, so that no policy acts on what
  /// is scored.
  int64_t prompt = -1;
};

struct TokenScore {
  double log_p = 0;   ///< log p(token | marker, tokens before it) in nats
  int32_t best = -1;  ///< the most likely token at this place; the lowest id on ties
};

struct TextScore {
  std::vector<TokenScore> tokens;  ///< of the scored ones
  int64_t kv_bytes = 0;            ///< in the cache when the text has been read; 0: no cache
  int64_t kv_prompt_bytes = 0;     ///< when its prompt was in and the policy had acted
  int64_t kv_shared_tokens = 0;    ///< at its beginning, taken from texts before instead of read
};

/// What evaluation knows of a model: training model and engine both stand behind it, the engine
/// with any codec, policy and budget. One thread at a time.
class Scorer {
 public:
  virtual ~Scorer() = default;

  virtual int64_t vocab_size() const = 0;
  /// The most tokens a text may have.
  virtual int64_t context_length() const = 0;
  /// What the scores depend on beside the model: which scorer, codec, policy, budget, number type.
  virtual Node settings() const = 0;
  /// Scores the texts, as many of them at once as the caller gives; one text's scores never depend
  /// on the others.
  virtual std::vector<TextScore> score(std::span<const ScoreText> texts) = 0;
  /// Ways of keeping the cache that it scores every text with; at least one.
  virtual std::vector<Arm> arms() const {
    Arm only;
    only.settings = settings();
    return {only};
  }
  /// The texts' scores with every arm, [arm][text]: each bit for bit as if it were the only arm.
  virtual std::vector<std::vector<TextScore>> score_arms(std::span<const ScoreText> texts) {
    return {score(texts)};
  }
  /// Logits [n, vocab] row-major of exactly these ids (a Block Transformer puts one block of EOS in
  /// front): row i predicts the token after token i.
  virtual std::vector<float> logits(std::span<const int32_t> tokens) = 0;
};

/// Throws Error(kRequest) unless every token is in the vocabulary, the text fits the context and
/// `scored` leaves something to score.
void check_text(const Scorer& scorer, const ScoreText& text);

}  // namespace ashlar

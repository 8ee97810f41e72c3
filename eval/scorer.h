#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ashlar {

/// What evaluation knows of a model: training model and engine both stand behind it. One thread at
/// a time.
class Scorer {
 public:
  virtual ~Scorer() = default;

  virtual int64_t vocab_size() const = 0;
  /// The most tokens one call may pass.
  virtual int64_t context_length() const = 0;
  /// log p(token i | the architecture's start marker, tokens before i) in nats for every i. The
  /// marker is one EOS for a decoder and one block of EOS for a Block Transformer, so that all
  /// architectures score the same tokens.
  virtual std::vector<double> token_log_probabilities(std::span<const int32_t> tokens) = 0;
  /// log p(token i | tokens before i) in nats for i = 1…n−1 of exactly these ids, nothing put in
  /// front of a decoder's: n − 1 values.
  virtual std::vector<double> continuation_log_probabilities(std::span<const int32_t> tokens) = 0;
  /// Logits [n, vocab] row-major of exactly these ids (a Block Transformer puts one block of EOS in
  /// front): row i predicts the token after token i.
  virtual std::vector<float> logits(std::span<const int32_t> tokens) = 0;
};

}  // namespace ashlar

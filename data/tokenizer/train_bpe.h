#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ashlar {

struct BpeTrainOptions {
  int64_t vocab_size = 4096;  ///< special tokens and the 256 bytes included
  /// Get the first ids. The first one is the end of a document.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  int64_t min_frequency = 0;  ///< pairs seen less often are not merged
  int threads = 0;            ///< 0: the cores this process may use
};

/// Trains a byte-level BPE vocabulary (Sennrich et al. 2016 over GPT-2's bytes and pre-tokenizer).
///
/// The result depends on the documents alone, not on threads or batches, and equals that of
/// Hugging Face `tokenizers` with BpeTrainer over the same documents, whose order of merges it
/// follows to the letter: the most frequent pair, on ties the smallest pair of ids.
class BpeTrainer {
 public:
  /// Throws Error(kRequest) for a size that cannot hold bytes and special tokens.
  explicit BpeTrainer(const BpeTrainOptions& options);
  ~BpeTrainer();
  BpeTrainer(const BpeTrainer&) = delete;
  BpeTrainer& operator=(const BpeTrainer&) = delete;

  /// Counts the pre-tokens of a batch of documents, on all threads.
  void add(std::span<const std::string> documents);
  /// Learns the merges and returns the text of a tokenizer.json. Throws Error(kRequest) when the
  /// documents hold too little text for the vocabulary.
  std::string train();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ashlar {

/// The merge rules of byte-pair encoding, and the encoder.
///
/// Repeatedly replaces the adjacent pair of lowest rank, the leftmost on equal ranks. Distinct
/// ranks give the BPE of Sennrich et al. (2016) as in GPT-2 and Hugging Face; ranks shared by all
/// pairs that build the same token give the highest-score-first merge of SentencePiece and
/// llama2.c.
class BpeModel {
 public:
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t rank = 0;
    int32_t result = 0;
  };

  BpeModel() = default;
  /// A later merge of the same pair replaces an earlier one, as in Hugging Face.
  explicit BpeModel(const std::vector<Merge>& merges);

  /// Merges `symbols` in place to the end. O(n²) for short words, O(n log n) for long ones; both
  /// give the same result. Thread-safe.
  void merge(std::vector<int32_t>& symbols) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    int32_t rank = 0;
    int32_t result = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  const Slot* find(int32_t left, int32_t right) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  std::vector<Slot> slots_;  // open addressing, at most half full
  uint64_t mask_ = 0;
};

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/shards/batch_source.h"
#include "data/shards/sample_source.h"

namespace ashlar {

/// Samples of several corpora in fixed proportions. Of every kPeriod samples each corpus gives as
/// many as its weight says (largest remainders), in an order drawn anew for each period. A corpus
/// runs through its own samples, and its own epochs, one after the other.
///
/// Sample k is a pure function of (corpora, weights, seed, k).
class MixtureSource final : public SampleSource {
 public:
  static constexpr int64_t kPeriod = 1000;

  struct Part {
    const SampleSource* source = nullptr;  ///< must outlive the mixture
    double weight = 1;                     ///< > 0, relative to the others'
    std::string name;                      ///< for messages
  };
  /// Throws Error(kRequest) when the weight of a part gives it no sample of a period.
  MixtureSource(std::vector<Part> parts, uint64_t seed);
  /// Seed for the order of samples inside part `part`.
  static uint64_t seed_of(uint64_t seed, size_t part);

  using SampleSource::batch;
  int64_t context() const override { return parts_[0].source->context(); }
  /// Of all parts together.
  int64_t windows() const override;
  Batch batch(std::span<const int64_t> samples) const override;

  /// Samples of a period that part `part` gives.
  int64_t count(size_t part) const { return first_[part + 1] - first_[part]; }
  /// Which part gives sample `sample`, and which of that part's samples it is.
  struct Place {
    size_t part = 0;
    int64_t sample = 0;
  };
  Place place_of(int64_t sample) const;
  /// Samples of part `part` among the first `samples`.
  int64_t samples_of(size_t part, int64_t samples) const;

 private:
  std::vector<Part> parts_;
  std::vector<int64_t> first_;  ///< slots [first_[p], first_[p+1]) of a period belong to part p
  Permutation slots_;
};

}  // namespace ashlar

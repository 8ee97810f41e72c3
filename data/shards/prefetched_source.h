#pragma once

#include <future>
#include <map>
#include <mutex>
#include <vector>

#include "data/shards/sample_source.h"

namespace ashlar {

/// Reads samples that were announced by prefetch() in the background.
class PrefetchedSource : public SampleSource {
 public:
  /// Keeps a reference to `source`.
  explicit PrefetchedSource(const SampleSource& source) : source_(source) {}

  int64_t context() const override { return source_.context(); }
  int64_t windows() const override { return source_.windows(); }
  using SampleSource::batch;
  /// Takes what was announced with the very same samples, or reads them now.
  Batch batch(std::span<const int64_t> samples) const override;
  void prefetch(std::span<const int64_t> samples) const override;
  /// Drops what was announced and not taken, such as before going back to a checkpoint.
  void forget() const;

 private:
  using Samples = std::vector<int64_t>;
  const SampleSource& source_;
  mutable std::mutex mutex_;
  mutable std::map<Samples, std::future<Batch>> ahead_;
};

}  // namespace ashlar

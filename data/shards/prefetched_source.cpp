#include "data/shards/prefetched_source.h"

namespace ashlar {

Batch PrefetchedSource::batch(std::span<const int64_t> samples) const {
  std::future<Batch> ready;
  {
    const std::lock_guard lock(mutex_);
    const auto found = ahead_.find(Samples(samples.begin(), samples.end()));
    if (found != ahead_.end()) {
      ready = std::move(found->second);
      ahead_.erase(found);
    }
  }
  return ready.valid() ? ready.get() : source_.batch(samples);
}

void PrefetchedSource::prefetch(std::span<const int64_t> samples) const {
  const std::lock_guard lock(mutex_);
  Samples own(samples.begin(), samples.end());
  if (ahead_.contains(own)) return;
  auto work = [this, own] { return source_.batch(own); };
  ahead_.emplace(std::move(own), std::async(std::launch::async, std::move(work)));
}

void PrefetchedSource::forget() const {
  const std::lock_guard lock(mutex_);
  ahead_.clear();
}

}  // namespace ashlar

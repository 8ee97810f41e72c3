#include "data/shards/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr uint64_t kPartStream = 0x636f72707573;     // "corpus": seeds of the parts
constexpr uint64_t kMixtureStream = 0x6d6978747572;  // "mixtur": the order of the parts

/// `total` split as the weights say: rounded down, then one more where most was lost.
std::vector<int64_t> shares(const std::vector<double>& weights, int64_t total) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> counts;
  std::vector<std::pair<double, size_t>> lost;
  for (size_t p = 0; p < weights.size(); ++p) {
    const double exact = static_cast<double>(total) * weights[p] / sum;
    counts.push_back(static_cast<int64_t>(std::floor(exact)));
    lost.emplace_back(std::floor(exact) - exact, p);  // most lost first, then in order
  }
  std::sort(lost.begin(), lost.end());
  const int64_t left = total - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (int64_t i = 0; i < left; ++i) ++counts[lost[static_cast<size_t>(i)].second];
  return counts;
}

}  // namespace

MixtureSource::MixtureSource(std::vector<Part> parts, uint64_t seed)
    : parts_(std::move(parts)),
      slots_(static_cast<uint64_t>(kPeriod), Philox(seed, kMixtureStream).bits(0)) {
  ASHLAR_CHECK(!parts_.empty());
  std::vector<double> weights;
  for (const Part& part : parts_) {
    ASHLAR_CHECK(part.weight > 0 && part.source->context() == context());
    weights.push_back(part.weight);
  }
  first_.push_back(0);
  for (const int64_t count : shares(weights, kPeriod)) first_.push_back(first_.back() + count);
  for (size_t p = 0; p < parts_.size(); ++p) {
    require(count(p) > 0, ErrorCode::kRequest,
            "data.train: the weight {} of {} is less than one sample in {}", parts_[p].weight,
            parts_[p].name, kPeriod);
  }
}

uint64_t MixtureSource::seed_of(uint64_t seed, size_t part) {
  return Philox(seed, kPartStream).bits(part);
}

int64_t MixtureSource::windows() const {
  int64_t sum = 0;
  for (const Part& part : parts_) sum = checked_add(sum, part.source->windows(), "samples");
  return sum;
}

MixtureSource::Place MixtureSource::place_of(int64_t sample) const {
  ASHLAR_CHECK_GE(sample, 0);
  const int64_t period = sample / kPeriod;
  const auto slot = static_cast<int64_t>(
      slots_(static_cast<uint64_t>(period), static_cast<uint64_t>(sample % kPeriod)));
  const auto after = std::upper_bound(first_.begin(), first_.end(), slot);
  const auto part = static_cast<size_t>(after - first_.begin()) - 1;
  // The slots of a part are its next samples, in the order of slots: each comes exactly once.
  return {part, period * count(part) + slot - first_[part]};
}

int64_t MixtureSource::samples_of(size_t part, int64_t samples) const {
  int64_t out = samples / kPeriod * count(part);
  for (int64_t s = samples / kPeriod * kPeriod; s < samples; ++s) {
    out += place_of(s).part == part ? 1 : 0;
  }
  return out;
}

Batch MixtureSource::batch(std::span<const int64_t> samples) const {
  Batch out;
  out.rows = static_cast<int64_t>(samples.size());
  out.context = context();
  out.cursor = samples.empty() ? 0 : samples.front();
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const int64_t sample : samples) {
    const Place place = place_of(sample);
    const Batch row = parts_[place.part].source->batch(place.sample, 1);
    append(out.tokens, row.tokens);
    append(out.targets, row.targets);
    append(out.loss_weight, row.loss_weight);
    append(out.segment_ids, row.segment_ids);
    append(out.positions, row.positions);
  }
  return out;
}

}  // namespace ashlar

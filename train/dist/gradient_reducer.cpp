#include "train/dist/gradient_reducer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;

// Units whose whole gradients may be under way at a time where they are not kept.
constexpr size_t kMostFlights = 3;

// A hash in which every bit counts, of the bytes in order (multiplication by an odd constant and
// shifts, as in splitmix64).
uint64_t hash_bytes(const Tensor& t) {
  const Tensor flat = t.to(at::kCPU).contiguous();
  const auto* bytes = static_cast<const std::byte*>(flat.data_ptr());
  const auto count = static_cast<size_t>(flat.numel()) * flat.element_size();
  uint64_t h = count;
  for (size_t at = 0; at < count; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, std::min(sizeof(word), count - at));
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
  }
  return h;
}

}  // namespace

GradientReducer::GradientReducer(std::vector<const UnitLayout*> units, int zero,
                                 Reduction reduction, const ShardGroups& groups, WaitTally& waits,
                                 at::Device device)
    : units_(std::move(units)),
      zero_(zero),
      reduction_(reduction),
      groups_(groups),
      waits_(waits),
      options_(at::TensorOptions(at::kFloat).device(device)),
      state_(units_.size()) {}

UnitLayout::Range GradientReducer::range(size_t unit) const {
  return units_[unit]->slice(groups_.shard->rank(), groups_.shard->size());
}

void GradientReducer::begin_step() {
  for (size_t u = 0; u < units_.size(); ++u) {
    State& s = state_[u];
    if (whole_gradients()) {
      if (!s.whole.defined()) s.whole = at::empty({units_[u]->size}, options_);
      s.whole.zero_();
      s.sum = Tensor();
    } else if (!s.sum.defined()) {
      s.sum = at::zeros({range(u).size()}, options_);
    } else {
      s.sum.zero_();
    }
  }
}

void GradientReducer::begin_pass(bool last, int64_t micro_batches) {
  ASHLAR_CHECK(flights_.empty());
  last_ = last;
  micro_batches_ = micro_batches;
  next_ = 0;
  for (State& s : state_) s.done = false;
}

void GradientReducer::add(size_t unit, size_t part, const Tensor& gradient) {
  State& s = state_[unit];
  ASHLAR_CHECK(!s.done);
  if (!s.whole.defined()) s.whole = at::zeros({units_[unit]->size}, options_);
  if (record_) fingerprints_.push_back(hash_bytes(gradient));
  const UnitLayout::Part& p = units_[unit]->parts[part];
  s.whole.narrow(0, p.offset, p.numel).add_(gradient.reshape({-1}));
}

void GradientReducer::done(size_t unit) {
  state_[unit].done = true;
  launch_ready(false);
}

void GradientReducer::finish_pass() {
  launch_ready(true);
  while (!flights_.empty()) {
    Flight flight = std::move(flights_.front());
    flights_.pop_front();
    land(std::move(flight));
  }
}

void GradientReducer::launch_ready(bool all) {
  if (whole_gradients() && !last_) return;
  for (; next_ < units_.size() && (all || state_[next_].done); ++next_) launch(next_);
}

void GradientReducer::launch(size_t unit) {
  State& s = state_[unit];
  s.done = true;
  if (!s.whole.defined()) s.whole = at::zeros({units_[unit]->size}, options_);
  const int64_t size = units_[unit]->size, own = range(unit).size();
  Flight flight{unit, s.whole, {}, nullptr};
  if (!whole_gradients()) s.whole = Tensor();
  if (reduction_ == Reduction::kOrdered) {
    flight.receive = at::empty({groups_.world->size(), size}, options_);
    flight.work = groups_.world->all_gather(flight.send.data_ptr(), flight.receive.data_ptr(), size,
                                            DType::kF32);
  } else {
    const bool narrow = reduction_ == Reduction::kBf16;
    const DType type = narrow ? DType::kBF16 : DType::kF32;
    if (narrow) flight.send = flight.send.to(at::kBFloat16);
    if (groups_.shard->size() > 1) {
      flight.receive = at::empty({own}, flight.send.options());
      flight.work = groups_.shard->reduce_scatter(flight.send.data_ptr(), flight.receive.data_ptr(),
                                                  own, type, ReduceOp::kSum);
    } else {
      flight.receive = flight.send;
      // Whole gradients need one more collective at most, so it can begin at once.
      if (last_ && whole_gradients()) {
        flight.work =
            groups_.replica->all_reduce(flight.receive.data_ptr(), own, type, ReduceOp::kSum);
      }
    }
  }
  waits_.begun(flight.work.get());
  flights_.push_back(std::move(flight));
  while (!whole_gradients() && flights_.size() > kMostFlights) {
    Flight first = std::move(flights_.front());
    flights_.pop_front();
    land(std::move(first));
  }
}

void GradientReducer::land(Flight flight) {
  State& s = state_[flight.unit];
  if (flight.work != nullptr) waits_.wait(*flight.work);
  if (reduction_ == Reduction::kOrdered) return add_in_order(flight.unit, flight.receive);
  if (whole_gradients()) {
    s.sum = flight.receive.to(at::kFloat);
    if (groups_.shard->size() > 1) sum_over_replicas(flight.unit);
    return;
  }
  s.sum.add_(flight.receive);
  if (last_) sum_over_replicas(flight.unit);
}

void GradientReducer::add_in_order(size_t unit, const Tensor& gathered) {
  const UnitLayout::Range own = range(unit);
  for (int64_t rank = 0; rank < micro_batches_; ++rank) {
    state_[unit].sum.add_(gathered[rank].narrow(0, own.begin, own.size()));
  }
}

void GradientReducer::sum_over_replicas(size_t unit) {
  if (groups_.replica->size() == 1) return;
  Tensor& sum = state_[unit].sum;
  const bool narrow = reduction_ == Reduction::kBf16;
  Tensor buffer = narrow ? sum.to(at::kBFloat16) : sum;
  const auto work = groups_.replica->all_reduce(
      buffer.data_ptr(), buffer.numel(), narrow ? DType::kBF16 : DType::kF32, ReduceOp::kSum);
  waits_.wait(*work);
  if (narrow) sum.copy_(buffer);
}

}  // namespace ashlar

#include "core/comm/simulated.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "core/base/error.h"

namespace ashlar {
namespace {

class SimulatedWork : public CommWork {
 public:
  SimulatedWork(std::shared_ptr<SimulatedTimeline> timeline, size_t index)
      : timeline_(std::move(timeline)), index_(index) {}
  bool done() override { return timeline_->done(index_); }
  void wait() override { timeline_->wait(index_); }

 private:
  std::shared_ptr<SimulatedTimeline> timeline_;
  size_t index_;
};

template <typename T>
void multiply(const void* in, void* out, int64_t count, int64_t n) {
  const T* from = static_cast<const T*>(in);
  T* to = static_cast<T*>(out);
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] * static_cast<T>(n);
}

// `out` [count] = n equal contributions reduced.
void reduce_copies(const void* in, void* out, int64_t count, DType type, ReduceOp op, int64_t n) {
  if (op != ReduceOp::kSum) {
    std::memmove(out, in, static_cast<size_t>(count * dtype_bytes(type)));
    return;
  }
  if (type == DType::kF32) return multiply<float>(in, out, count, n);
  if (type == DType::kF64) return multiply<double>(in, out, count, n);
  if (type == DType::kI64) return multiply<int64_t>(in, out, count, n);
  require(type == DType::kBF16, ErrorCode::kInternal, "collectives cannot sum {}",
          dtype_name(type));
  const auto* from = static_cast<const uint16_t*>(in);
  auto* to = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = float_to_bfloat(bfloat_to_float(from[i]) * static_cast<float>(n));
  }
}

class SimulatedCommunicator : public Communicator {
 public:
  SimulatedCommunicator(std::vector<int64_t> ranks, int64_t rank,
                        std::shared_ptr<SimulatedTimeline> timeline)
      : ranks_(std::move(ranks)), rank_(rank), timeline_(std::move(timeline)) {
    const SimulatedNetwork& network = timeline_->network();
    const int64_t node = ranks_[0] / network.ranks_per_node;
    inside_ = network.inside && std::all_of(ranks_.begin(), ranks_.end(), [&](int64_t r) {
                return r / network.ranks_per_node == node;
              });
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(ranks_.size()); }

  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    reduce_copies(data, data, count, type, op, size());
    const int64_t bytes = count * dtype_bytes(type);
    return begin("all_reduce", bytes, 2 * (size() - 1),
                 static_cast<double>(bytes) / static_cast<double>(size()));
  }

  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    const int64_t bytes = count * dtype_bytes(type);
    reduce_copies(static_cast<const char*>(in) + rank_ * bytes, out, count, type, op, size());
    return begin("reduce_scatter", size() * bytes, size() - 1, static_cast<double>(bytes));
  }

  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    const int64_t bytes = count * dtype_bytes(type);
    for (int64_t r = 0; r < size(); ++r) {
      char* to = static_cast<char*>(out) + r * bytes;
      if (to != in) std::memcpy(to, in, static_cast<size_t>(bytes));
    }
    return begin("all_gather", size() * bytes, size() - 1, static_cast<double>(bytes));
  }

  std::unique_ptr<CommWork> broadcast(void*, int64_t count, DType type, int64_t root) override {
    ASHLAR_CHECK(root >= 0 && root < size());
    const int64_t bytes = count * dtype_bytes(type);
    return begin("broadcast", bytes, std::bit_width(static_cast<uint64_t>(size() - 1)),
                 static_cast<double>(bytes));
  }

  void barrier() override { begin("barrier", 0, 2 * (size() - 1), 0)->wait(); }

  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks, const std::string&) override {
    const auto me = std::find(ranks.begin(), ranks.end(), rank_);
    ASHLAR_CHECK(me != ranks.end());
    std::vector<int64_t> members;
    for (const int64_t r : ranks) {
      ASHLAR_CHECK(r >= 0 && r < size());
      members.push_back(ranks_[static_cast<size_t>(r)]);
    }
    return std::make_unique<SimulatedCommunicator>(std::move(members), me - ranks.begin(),
                                                   timeline_);
  }

 private:
  std::unique_ptr<CommWork> begin(const char* kind, int64_t bytes, int64_t steps,
                                  double step_bytes) {
    const SimulatedNetwork& network = timeline_->network();
    const SimulatedLink& link = inside_ ? *network.inside : network.between;
    SimulatedCollective collective;
    collective.kind = kind;
    collective.ranks = size();
    collective.bytes = bytes;
    collective.inside = inside_;
    const double seconds =
        static_cast<double>(steps) * (link.latency + step_bytes / link.bandwidth);
    return std::make_unique<SimulatedWork>(timeline_,
                                           timeline_->begin(std::move(collective), seconds));
  }

  std::vector<int64_t> ranks_;  // of the simulated run
  int64_t rank_;
  std::shared_ptr<SimulatedTimeline> timeline_;
  bool inside_ = false;
};

}  // namespace

SimulatedClock SimulatedClock::real() {
  using Clock = std::chrono::steady_clock;
  const auto zero = Clock::now();
  return {[zero] { return std::chrono::duration<double>(Clock::now() - zero).count(); },
          [zero](double time) {
            std::this_thread::sleep_until(zero + std::chrono::duration_cast<Clock::duration>(
                                                     std::chrono::duration<double>(time)));
          }};
}

SimulatedClock SimulatedClock::manual() {
  const auto time = std::make_shared<double>(0);
  return {[time] { return *time; }, [time](double until) { *time = std::max(*time, until); }};
}

SimulatedTimeline::SimulatedTimeline(const SimulatedNetwork& network, SimulatedClock clock)
    : network_(network), clock_(std::move(clock)) {
  require(network.ranks_per_node >= 1, ErrorCode::kRequest,
          "simulated network: a node has at least one rank, not {}", network.ranks_per_node);
  const auto check = [](const SimulatedLink& link, const char* where) {
    require(link.latency >= 0 && link.bandwidth > 0, ErrorCode::kRequest,
            "simulated network: the link {} nodes needs a latency of 0 s or more and a bandwidth "
            "above 0 bytes/s, not {} and {}",
            where, link.latency, link.bandwidth);
  };
  check(network.between, "between");
  if (network.inside) check(*network.inside, "inside");
}

size_t SimulatedTimeline::begin(SimulatedCollective collective, double seconds) {
  const std::lock_guard lock(mutex_);
  double& free = collective.inside ? free_inside_ : free_between_;
  collective.begun = clock_.now();
  collective.start = std::max(collective.begun, free);
  collective.end = collective.start + seconds;
  free = collective.end;
  collectives_.push_back(std::move(collective));
  return collectives_.size() - 1;
}

bool SimulatedTimeline::done(size_t index) const {
  const std::lock_guard lock(mutex_);
  return clock_.now() >= collectives_[index].end;
}

void SimulatedTimeline::wait(size_t index) {
  double begin = 0, end = 0;
  {
    const std::lock_guard lock(mutex_);
    begin = clock_.now();
    end = collectives_[index].end;
  }
  if (begin >= end) return;
  clock_.sleep_until(end);
  const std::lock_guard lock(mutex_);
  collectives_[index].waited += end - begin;
}

std::vector<SimulatedCollective> SimulatedTimeline::collectives() const {
  const std::lock_guard lock(mutex_);
  return collectives_;
}

double SimulatedTimeline::busy() const {
  double total = 0;
  for (const SimulatedCollective& one : collectives()) total += one.end - one.start;
  return total;
}

double SimulatedTimeline::hidden() const {
  double waited = 0;
  for (const SimulatedCollective& one : collectives()) waited += one.waited;
  return std::max(0.0, busy() - waited);
}

std::unique_ptr<Communicator> make_simulated_communicator(
    int64_t rank, int64_t size, std::shared_ptr<SimulatedTimeline> timeline) {
  ASHLAR_CHECK(size >= 1 && rank >= 0 && rank < size);
  std::vector<int64_t> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return std::make_unique<SimulatedCommunicator>(std::move(ranks), rank, std::move(timeline));
}

}  // namespace ashlar

// Random eviction, the floor that other methods are measured against. Every row of a KV head draws
// one number, a function of seed, group, head and position (Philox), and the rows of least numbers
// go: so each row that was ever there is as likely to be held as any other, whatever the steps
// were.

#include "core/base/rng.h"
#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class Random final : public DropsLeast {
 public:
  Random(RowBudget rows, uint64_t seed)
      : DropsLeast({.per_head = true}, std::move(rows)), seed_(seed) {}

 private:
  std::function<double(int64_t)> values(const LaneView& lane) const override {
    const Philox rng(seed_,
                     static_cast<uint64_t>(lane.group) << 32 | static_cast<uint64_t>(lane.head));
    return [&lane, rng](int64_t slot) {
      return rng.uniform(static_cast<uint64_t>(lane.positions[static_cast<size_t>(slot)]));
    };
  }

  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Policy> make_random(const PolicyOptions& options,
                                    std::span<const KvGroup> governed) {
  return std::make_unique<Random>(rows_one_by_one(options, governed.size(), 1),
                                  options.seed.value_or(0));
}

}  // namespace ashlar

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "data/shards/batch_source.h"
#include "tests/support/thread_ranks.h"
#include "tests/train/run_state.h"
#include "train/trainer.h"

// The replay check (guards.replay_every) against a rank whose data, as if its memory were bad, come
// out different the second time.

namespace ashlar {
namespace {

// Gives one token another value from the second reading of a sample on.
class FaultySource : public SampleSource {
 public:
  FaultySource(const SampleSource& sound, int64_t faulty_step) : sound_(sound), at_(faulty_step) {}
  int64_t context() const override { return sound_.context(); }
  int64_t windows() const override { return sound_.windows(); }
  Batch batch(std::span<const int64_t> samples) const override {
    Batch batch = sound_.batch(samples);
    if (reads_++ == at_) batch.tokens[3] = batch.tokens[3] == 5 ? 6 : 5;
    return batch;
  }

 private:
  const SampleSource& sound_;
  int64_t at_;
  mutable std::atomic<int64_t> reads_{0};
};

// The ranks that a replay of the first step finds, as every rank was told.
std::vector<std::vector<int64_t>> replay(const std::vector<int64_t>& faulty, int64_t stage,
                                         const std::string& reduce) {
  const test::Fixture f;
  constexpr int64_t kRanks = 3;
  Node root = parse_yaml(f.yaml("unused"), "t.yaml");
  apply_overrides(
      root, {"train.batch_size=6", "train.micro_batch=1", fmt::format("distributed.zero={}", stage),
             "distributed.reduce=" + reduce});
  TrainConfig config = train_config_from(root);
  resolve_machine_choices(config);
  const ShardSet shards(f.dir / "train");
  const BatchSource sound(shards, config.context, config.seed);
  std::vector<std::vector<int64_t>> told(kRanks);
  test::run_ranks(kRanks, [&](Communicator& communicator) {
    const int64_t rank = communicator.rank();
    // Two micro-batches a rank: the fourth reading is the replay's second.
    const bool bad = std::find(faulty.begin(), faulty.end(), rank) != faulty.end();
    const FaultySource source(sound, bad ? 3 : -1);
    Trainer trainer(config, 0, communicator);
    trainer.record_fingerprints(true);
    trainer.compute(source);
    told[static_cast<size_t>(rank)] = trainer.replay(source);
  });
  return told;
}

TEST(Replay, NamesTheRanksWhoseGradientComesOutOtherwise) {
  for (const std::string reduce : {"fp32", "ordered"}) {
    for (int64_t stage = 0; stage <= 3; ++stage) {
      for (const std::vector<int64_t>& faulty :
           {std::vector<int64_t>{}, std::vector<int64_t>{1}, std::vector<int64_t>{0, 2}}) {
        for (const std::vector<int64_t>& told : replay(faulty, stage, reduce)) {
          EXPECT_EQ(told, faulty) << "stage " << stage << ", " << reduce;
        }
      }
    }
  }
}

}  // namespace
}  // namespace ashlar

#include <gtest/gtest.h>

#include <map>

#include "data/shards/batch_source.h"
#include "models/spec/lora.h"
#include "tests/support/files.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/tolerance.h"
#include "tests/train/run_state.h"
#include "train/trainer.h"

// Ranks as threads: every ZeRO stage, grouping and way to add gradients against one rank alone.

namespace ashlar {
namespace {

using test::Fixture;

struct Outcome {
  std::map<std::string, std::vector<float>> state;  ///< whole tensors
  std::vector<double> losses, norms;
  std::pair<double, double> validation;
};

// Puts the ranks' pieces together; every element must come exactly once.
class Assembly {
 public:
  void add(const std::vector<StatePiece>& pieces) {
    const std::lock_guard lock(mutex_);
    for (const StatePiece& p : pieces) {
      int64_t numel = 1;
      for (int64_t d : p.shape) numel *= d;
      auto& values = state_[p.name];
      auto& times = times_[p.name];
      values.resize(static_cast<size_t>(numel));
      times.resize(values.size());
      for (size_t i = 0; i < p.values.size(); ++i) {
        values[static_cast<size_t>(p.first) + i] = p.values[i];
        ++times[static_cast<size_t>(p.first) + i];
      }
    }
  }
  std::map<std::string, std::vector<float>> take() {
    for (const auto& [name, times] : times_) {
      for (const int n : times) EXPECT_EQ(n, 1) << name;
    }
    return std::move(state_);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::vector<float>> state_;
  std::map<std::string, std::vector<int>> times_;
};

// Carries what NCCL would: fp32 and bf16 alone. On a GPU its buffers would be of device memory.
class TensorsAlone : public Communicator {
 public:
  explicit TensorsAlone(Communicator& below)
      : below_(below), settled_(std::make_shared<int64_t>(0)) {}
  TensorsAlone(std::unique_ptr<Communicator> below, std::shared_ptr<int64_t> settled)
      : own_(std::move(below)), below_(*own_), settled_(std::move(settled)) {}
  int64_t settled() const { return *settled_; }

  int64_t rank() const override { return below_.rank(); }
  int64_t size() const override { return below_.size(); }
  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    return below_.all_reduce(data, count, tensor_type(type), op);
  }
  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    return below_.reduce_scatter(in, out, count, tensor_type(type), op);
  }
  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    return below_.all_gather(in, out, count, tensor_type(type));
  }
  std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                      int64_t root) override {
    return below_.broadcast(data, count, tensor_type(type), root);
  }
  void barrier() override { below_.barrier(); }
  void settle() override { ++*settled_; }
  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks,
                                      const std::string& name) override {
    return std::make_unique<TensorsAlone>(below_.split(ranks, name), settled_);
  }

 private:
  static DType tensor_type(DType type) {
    EXPECT_TRUE(type == DType::kF32 || type == DType::kBF16) << dtype_name(type);
    return type;
  }
  std::unique_ptr<Communicator> own_;
  Communicator& below_;
  std::shared_ptr<int64_t> settled_;  // of this one and its parts
};

class Parallel : public ::testing::Test {
 protected:
  Outcome run(const std::string& model, int64_t world, const std::vector<std::string>& overrides,
              int64_t steps = 3, bool apart = false) {
    Node root = parse_yaml(f_.yaml("unused", model), "t.yaml");
    apply_overrides(root, {"train.batch_size=7", "train.micro_batch=1", "train.device=cpu"});
    apply_overrides(root, overrides);
    TrainConfig config = train_config_from(root);
    resolve_machine_choices(config);
    const ShardSet shards(f_.dir / "train"), held_out(f_.dir / "validation");
    const BatchSource source(shards, config.context, config.seed);
    const BatchSource validation(held_out, config.context, 0, BatchSource::Order::kSequential);
    Outcome out;
    Assembly assembly;
    test::run_ranks(world, [&](Communicator& communicator) {
      TensorsAlone tensors(communicator);
      Trainer trainer(config, 0, communicator, apart ? tensors : communicator);
      for (int64_t s = 0; s < steps; ++s) {
        const StepResult r = trainer.step(source);
        if (communicator.rank() == 0) {
          out.losses.push_back(r.loss);
          out.norms.push_back(r.grad_norm);
        }
      }
      // With one row only the first of several ranks has something to validate.
      const double loss = trainer.validate(validation, 5, {}).loss;
      const double first = trainer.validate(validation, 1, {}).loss;
      if (communicator.rank() == 0) out.validation = {loss, first};
      assembly.add(trainer.own_state());
      // Before the host reads losses and norms of each step, and the loss of each validation pass.
      if (apart) {
        EXPECT_GE(tensors.settled(), steps);
      }
    });
    out.state = assembly.take();
    return out;
  }

  static void expect_same(const Outcome& a, const Outcome& b, const std::string& what) {
    EXPECT_EQ(a.losses, b.losses) << what;
    EXPECT_EQ(a.norms, b.norms) << what;
    EXPECT_EQ(a.validation, b.validation) << what;
    EXPECT_EQ(a.state, b.state) << what;
  }

  Fixture f_;
};

std::string zero(int64_t stage) { return fmt::format("distributed.zero={}", stage); }

// 7 micro-batches do not divide among 2 or 4 ranks: the remainder counts as well.
TEST_F(Parallel, InOrderAnyRanksAndStagesGiveTheSameBits) {
  for (const char* model : {test::kDecoderModel, test::kBlockModel}) {
    const std::string ordered = "distributed.reduce=ordered";
    const Outcome alone = run(model, 1, {ordered});
    ASSERT_EQ(alone.losses.size(), 3u);
    EXPECT_NE(alone.losses[0], alone.losses[2]);
    for (const int64_t world : {1, 2, 3, 4}) {
      for (int64_t stage = 0; stage <= 3; ++stage) {
        expect_same(run(model, world, {ordered, zero(stage)}), alone,
                    fmt::format("{} ranks, stage {}", world, stage));
      }
    }
    expect_same(run(model, 4, {ordered, zero(3), "distributed.shard_ranks=2"}), alone, "hybrid");
    expect_same(run(model, 4, {ordered, zero(1), "distributed.shard_ranks=2"}), alone, "hybrid");
  }
}

// The numbers of a step go by one communicator, tensors by another.
TEST_F(Parallel, NumbersAndTensorsMayTravelApart) {
  for (const std::string precision : {"train.precision=fp32", "train.precision=bf16"}) {
    for (int64_t stage = 0; stage <= 3; ++stage) {
      const Outcome together = run(test::kDecoderModel, 2, {zero(stage), precision});
      const Outcome apart = run(test::kDecoderModel, 2, {zero(stage), precision}, 3, true);
      expect_same(apart, together, fmt::format("stage {} {}", stage, precision));
    }
  }
}

// In fp32 the sum over ranks is reordered: with eps = 1 AdamW's step is a smooth function of the
// gradient, and one step shows its bound.
TEST_F(Parallel, OtherwiseWithinTheBoundOfReordering) {
  const std::vector<std::string> smooth = {"optimizer.eps=1.0", "schedule.warmup_steps=0",
                                           "optimizer.clip=0"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), smooth.begin(), smooth.end());
    return more;
  };
  const Outcome alone = run(test::kDecoderModel, 1, smooth, 1);
  for (const int64_t world : {2, 4}) {
    for (int64_t stage = 0; stage <= 3; ++stage) {
      const Outcome many = run(test::kDecoderModel, world, with({zero(stage)}), 1);
      ASSERT_EQ(many.state.size(), alone.state.size());
      for (const auto& [name, values] : alone.state) {
        EXPECT_TRUE(
            test::within(many.state.at(name), values, test::reordered<float>(7 * 32 * 4, 1)))
            << name << " at stage " << stage;
      }
    }
  }
  const Outcome hybrid =
      run(test::kDecoderModel, 4, with({zero(2), "distributed.shard_ranks=2"}), 1);
  const Outcome narrow = run(test::kDecoderModel, 4, with({zero(2), "distributed.reduce=bf16"}), 1);
  EXPECT_NE(narrow.state, hybrid.state);
  for (const auto& [name, values] : alone.state) {
    EXPECT_TRUE(test::within(hybrid.state.at(name), values, test::reordered<float>(7 * 32 * 4, 1)));
    // One rounding to 8 bits for each of four ranks, of gradients below 1 times a rate of 0.01.
    EXPECT_TRUE(test::within(narrow.state.at(name), values, test::quantized(4 * 0x1p-8)));
  }
}

TEST_F(Parallel, RecomputedActivationsGiveTheSameBits) {
  for (const std::string model : {test::kDecoderModel, test::kBlockModel}) {
    const bool block = model == test::kBlockModel;
    const Outcome kept = run(model, 1, {});
    expect_same(run(model, 1, {"train.recompute=all"}), kept, "all");
    const char* const some = block ? "train.recompute=[local.layers.1]"
                                   : "train.recompute=[model.layers.1,model.layers.2]";
    expect_same(run(model, 1, {some}), kept, "some");
    const Outcome sharded = run(model, 2, {zero(3)});
    expect_same(run(model, 2, {zero(3), "train.recompute=all"}), sharded, "sharded");
    test::expect_error(ErrorCode::kRequest, {"train.recompute", "nothing.*", "matches no stage"},
                       [&] { run(model, 1, {"train.recompute=[nothing.*]"}); });
  }
}

// Under ZeRO products read bf16 copies that are gathered, without it casts of the fp32 weights.
TEST_F(Parallel, Bf16CopiesGiveTheBitsOfCasts) {
  for (const std::string model : {test::kDecoderModel, test::kBlockModel}) {
    const std::string bf16 = "train.precision=bf16", ordered = "distributed.reduce=ordered";
    const Outcome alone = run(model, 1, {bf16, ordered});
    for (int64_t stage = 1; stage <= 3; ++stage) {
      expect_same(run(model, 1, {bf16, ordered, zero(stage)}), alone, "one rank");
      expect_same(run(model, 2, {bf16, ordered, zero(stage)}), alone, "two ranks");
    }
  }
}

TEST_F(Parallel, AuxiliaryLossesAndTiedHeadsReduceOnce) {
  const std::vector<std::string> block = {"train.block_losses.decoding=mse",
                                          "train.block_losses.auto_encoding_weight=0.5",
                                          "distributed.reduce=ordered"};
  std::vector<std::string> sharded = block;
  sharded.insert(sharded.end(), {zero(3), "train.recompute=all"});
  expect_same(run(test::kBlockModel, 3, sharded), run(test::kBlockModel, 1, block), "losses");
  const std::string tied = std::string(test::kDecoderModel) + "  tied_head: true\n";
  const Outcome alone = run(tied, 1, {"distributed.reduce=ordered"});
  for (int64_t stage = 0; stage <= 3; ++stage) {
    expect_same(run(tied, 2, {"distributed.reduce=ordered", zero(stage)}), alone, "tied");
  }
}

// Optimizers that need whole matrices, averages of weights, and a rate of its own for a group.
TEST_F(Parallel, EveryOptimizerGivesTheSameBitsOnAnyRanks) {
  for (const char* const kind : {"muon", "lion"}) {
    const std::vector<std::string> common = {
        fmt::format("optimizer={{kind: {}, lr: 1.0e-2}}", kind), "distributed.reduce=ordered",
        "ema.decay=0.9"};
    const Outcome alone = run(test::kBlockModel, 1, common);
    EXPECT_EQ(alone.state.count("ema/global.norm.weight"), 1u);
    for (const int64_t stage : {0, 1, 3}) {
      std::vector<std::string> many = common;
      many.push_back(zero(stage));
      expect_same(run(test::kBlockModel, 3, many), alone, kind);
    }
  }
}

// Only A and B change, alike on any ranks, and what they do to the loss is what merging does.
TEST_F(Parallel, AdaptersAreTrainedAlone) {
  const std::vector<std::string> lora = {"lora.rank=2", "lora.alpha=8",
                                         "lora.targets=[\"*_proj.*\",\"*head*\"]",
                                         "distributed.reduce=ordered", "schedule.warmup_steps=0"};
  const Outcome fresh = run(test::kDecoderModel, 1, {}, 0);
  const Outcome alone = run(test::kDecoderModel, 1, lora, 12);
  EXPECT_LT(alone.validation.first, fresh.validation.first - 0.1);
  const std::string query = "parameters/model.layers.2.self_attn.q_proj.weight";
  for (const auto& [name, values] : fresh.state) {
    if (name.starts_with("parameters/")) {
      EXPECT_EQ(alone.state.at(name), values) << name;
    }
  }
  EXPECT_EQ(alone.state.count("optimizer/exp_avg/model.layers.2.self_attn.q_proj.weight"), 0u);
  const auto& up = alone.state.at(query + ".lora_b");
  EXPECT_NE(up, std::vector<float>(up.size()));
  for (const int64_t stage : {0, 2, 3}) {
    std::vector<std::string> many = lora;
    many.insert(many.end(), {zero(stage), "train.recompute=all"});
    expect_same(run(test::kDecoderModel, 3, many, 12), alone, "ranks");
  }
  // The same model with merged matrices, never trained.
  Node root = parse_yaml(f_.yaml("unused"), "t.yaml");
  apply_overrides(root, {"train.device=cpu"});
  TrainConfig config = train_config_from(root);
  resolve_machine_choices(config);
  Trainer merged(config, 0);
  merged.set_parameters([&](const ParameterSpec& p) {
    const std::string name = "parameters/" + p.name;
    if (alone.state.count(name + ".lora_a") == 0) return alone.state.at(name);
    return merge_adapter(alone.state.at(name), alone.state.at(name + ".lora_a"),
                         alone.state.at(name + ".lora_b"), 2, 4);
  });
  const ShardSet held_out(f_.dir / "validation");
  const BatchSource validation(held_out, config.context, 0, BatchSource::Order::kSequential);
  // Each of 5·32 losses of a few nats from products over at most 48 terms in four layers.
  EXPECT_NEAR(merged.validate(validation, 5, {}).loss, alone.validation.first,
              test::reordered<float>(48 * 4, 4).absolute);
}

TEST_F(Parallel, AdaptersInBf16DoNotDependOnTheStage) {
  const std::vector<std::string> lora = {"lora.targets=[\"*.q_proj.*\"]", "lora.rank=4",
                                         "train.precision=bf16", "distributed.reduce=ordered"};
  const Outcome alone = run(test::kBlockModel, 1, lora);
  for (const int64_t stage : {1, 3}) {
    std::vector<std::string> many = lora;
    many.push_back(zero(stage));
    expect_same(run(test::kBlockModel, 2, many), alone, "stage");
  }
}

TEST_F(Parallel, ImpossibleDivisionsAreRefused) {
  const auto refuses = [&](int64_t world, const std::vector<std::string>& overrides,
                           const std::vector<std::string>& why) {
    test::expect_error(ErrorCode::kRequest, why,
                       [&] { run(test::kDecoderModel, world, overrides); });
  };
  refuses(4, {"train.micro_batch=3"}, {"4 ranks", "only 3 micro-batches", "train.micro_batch"});
  refuses(3, {zero(2), "distributed.shard_ranks=2"}, {"shard_ranks", "2", "3 ranks"});
  refuses(1, {"distributed.shard_ranks=2"}, {"distributed.shard_ranks", "zero: 0"});
  refuses(1, {zero(4)}, {"distributed.zero"});
}

}  // namespace
}  // namespace ashlar

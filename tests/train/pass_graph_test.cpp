#include "train/pass_graph.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>

#include "data/shards/batch_source.h"
#include "tests/support/files.h"
#include "tests/support/thread_ranks.h"
#include "tests/train/run_state.h"
#include "train/trainer.h"

// Recorded passes on the CPU: what is recorded is kept as a function, a replay calls it again on
// the tensors it was given.

namespace ashlar {
namespace {

using at::Tensor;
using test::Fixture;
using Work = std::function<void()>;

// Whether this thread is in work that is or would be recorded.
thread_local bool in_recording = false;

void record(const Work& work) {
  in_recording = true;
  work();
  in_recording = false;
}

struct Counts {
  std::atomic<int64_t> runs = 0, captures = 0, replays = 0;
};

// `replay` is what the backend does with the recorded work; CUDA does not do work while it is
// recorded, another device may.
class HostGraphs : public GraphBackend {
 public:
  using Replay = std::function<void(const Work&)>;
  explicit HostGraphs(Counts& counts, bool works_in_capture = false, Replay replay = {})
      : counts_(counts), works_in_capture_(works_in_capture), replay_(std::move(replay)) {}

  void run(const Work& work) override {
    ++counts_.runs;
    record(work);
  }
  std::unique_ptr<Recording> capture(const Work& work) override {
    ++counts_.captures;
    if (works_in_capture_) record(work);
    return std::make_unique<Kept>(*this, work);
  }

 private:
  struct Kept : Recording {
    Kept(HostGraphs& backend, Work work) : backend(backend), work(std::move(work)) {}
    void replay() override {
      ++backend.counts_.replays;
      if (!backend.replay_) return record(work);
      backend.replay_(work);
    }
    HostGraphs& backend;
    Work work;
  };
  Counts& counts_;
  bool works_in_capture_;
  Replay replay_;
};

// Refuses what a CUDA graph must not hold: collectives.
class OutsideRecordings : public Communicator {
 public:
  explicit OutsideRecordings(Communicator& below) : below_(below) {}
  explicit OutsideRecordings(std::unique_ptr<Communicator> below)
      : own_(std::move(below)), below_(*own_) {}
  int64_t rank() const override { return below_.rank(); }
  int64_t size() const override { return below_.size(); }
  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    return outside().all_reduce(data, count, type, op);
  }
  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    return outside().reduce_scatter(in, out, count, type, op);
  }
  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    return outside().all_gather(in, out, count, type);
  }
  std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                      int64_t root) override {
    return outside().broadcast(data, count, type, root);
  }
  void barrier() override { outside().barrier(); }
  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks,
                                      const std::string& name) override {
    return std::make_unique<OutsideRecordings>(outside().split(ranks, name));
  }

 private:
  Communicator& outside() const {
    EXPECT_FALSE(in_recording) << "a collective within a recording";
    return below_;
  }
  std::unique_ptr<Communicator> own_;
  Communicator& below_;
};

// Whole trainings -------------------------------------------------------------------------------

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<std::vector<float>> state;  // of each rank
};

class PassGraphTraining : public ::testing::Test {
 protected:
  using MakeBackend = std::function<std::unique_ptr<GraphBackend>()>;

  // Seven samples in micro-batches of 2, 2, 2 and 1.
  TrainConfig config(const std::string& model, const std::vector<std::string>& overrides) const {
    Node root = parse_yaml(f_.yaml("unused", model), "t.yaml");
    apply_overrides(root, {"train.batch_size=7", "train.micro_batch=2", "train.device=cpu"});
    apply_overrides(root, overrides);
    TrainConfig out = train_config_from(root);
    resolve_machine_choices(out);
    return out;
  }

  Outcome run(const std::string& model, int64_t world, const std::vector<std::string>& overrides,
              const MakeBackend& backend = {}, int64_t steps = 4) const {
    const TrainConfig c = config(model, overrides);
    const ShardSet shards(f_.dir / "train"), held_out(f_.dir / "validation");
    const BatchSource source(shards, c.context, c.seed);
    const BatchSource validation(held_out, c.context, 0, BatchSource::Order::kSequential);
    Outcome out;
    out.state.resize(static_cast<size_t>(world));
    test::run_ranks(world, [&](Communicator& below) {
      OutsideRecordings communicator(below);
      Trainer trainer(c, 0, communicator);
      if (backend) trainer.record_passes(backend());
      for (int64_t s = 0; s < steps; ++s) {
        const StepResult r = trainer.step(source);
        // Validations between steps run the same model without recordings.
        const double held = trainer.validate(validation, 3, {}).loss;
        if (communicator.rank() != 0) continue;
        out.losses.insert(out.losses.end(), {r.loss, held});
        out.norms.push_back(r.grad_norm);
      }
      auto& state = out.state[static_cast<size_t>(communicator.rank())];
      for (const StatePiece& p : trainer.own_state()) {
        state.insert(state.end(), p.values.begin(), p.values.end());
      }
    });
    return out;
  }

  void expect_same(const std::string& model, int64_t world,
                   const std::vector<std::string>& overrides) const {
    const std::string what = fmt::format("{} ranks, {}", world, fmt::join(overrides, " "));
    const Outcome eager = run(model, world, overrides);
    ASSERT_EQ(eager.norms.size(), 4u);
    EXPECT_NE(eager.losses[0], eager.losses[6]) << what;
    for (const bool works_in_capture : {false, true}) {
      Counts counts;
      const Outcome replayed = run(model, world, overrides, [&] {
        return std::make_unique<HostGraphs>(counts, works_in_capture);
      });
      EXPECT_EQ(replayed.losses, eager.losses) << what;
      EXPECT_EQ(replayed.norms, eager.norms) << what;
      EXPECT_EQ(replayed.state, eager.state) << what;
      // Alone a rank has micro-batches of both sizes; of two ranks the second has.
      const int64_t shapes = world + 1;
      EXPECT_EQ(counts.captures, shapes) << what;
      // To warm up and to compare with; once more in the next step.
      EXPECT_EQ(counts.runs, 3 * shapes) << what;
      EXPECT_EQ(counts.replays, 4 * 4 + 2 * shapes) << what;
    }
  }

  Fixture f_;
};

TEST_F(PassGraphTraining, ReplaysGiveTheBitsOfPasses) {
  for (const char* const model : {test::kDecoderModel, test::kBlockModel}) {
    for (const char* const precision : {"train.precision=fp32", "train.precision=bf16"}) {
      for (const char* const zero : {"distributed.zero=0", "distributed.zero=1"}) {
        for (const int64_t world : {1, 2}) expect_same(model, world, {precision, zero});
      }
    }
  }
}

TEST_F(PassGraphTraining, WhateverIsTrainedAndHow) {
  expect_same(test::kDecoderModel, 1, {"train.document_mask=true", "train.z_loss=1.0e-4"});
  expect_same(test::kDecoderModel, 2, {"train.recompute=all", "distributed.reduce=bf16"});
  expect_same(
      test::kDecoderModel, 2,
      {"lora.rank=2", "lora.targets=[\"*_proj.*\"]", "train.precision=bf16", "distributed.zero=1"});
  expect_same(test::kBlockModel, 2,
              {"optimizer={kind: muon, lr: 1.0e-2}", "ema.decay=0.9", "distributed.zero=1"});
  expect_same(test::kBlockModel, 1, {"train.block_losses.auto_encoding_weight=0.5"});
  // A part of a unit that gets two gradients in a pass.
  expect_same(std::string(test::kDecoderModel) + "  tied_head: true\n", 1, {});
}

TEST_F(PassGraphTraining, AWrongReplayEndsTheRun) {
  const auto refuses = [&](const HostGraphs::Replay& replay, const std::string& what) {
    Counts counts;
    test::expect_error(ErrorCode::kInternal, {"train.cuda_graphs", "differs", what}, [&] {
      run(test::kDecoderModel, 1, {},
          [&] { return std::make_unique<HostGraphs>(counts, false, replay); });
    });
  };
  refuses([](const Work&) {}, "the loss");
  refuses([](const Work& work) { (work(), work()); }, "gradients of");
  // Good for all replays of the first step: two comparisons and four passes.
  int64_t replays = 0;
  refuses([&](const Work& work) { ++replays <= 6 ? work() : void(); }, "the loss");
  EXPECT_EQ(replays, 7);
}

TEST_F(PassGraphTraining, WhereItIsWrongItIsRefused) {
  const auto refuses = [&](const std::string& model, const std::vector<std::string>& overrides,
                           std::vector<std::string> why) {
    why.insert(why.end(), {"t.yaml:", "train.cuda_graphs"});
    std::string yaml = f_.yaml("unused", model);
    yaml.insert(yaml.find("seed: 3"), "cuda_graphs: true, ");
    test::expect_error(ErrorCode::kRequest, why, [&] {
      Node root = parse_yaml(yaml, "t.yaml");
      apply_overrides(root, overrides);
      train_config_from(root);
    });
  };
  const std::string decoder = test::kDecoderModel;
  refuses(decoder, {"train.device=cpu"}, {"train.device is cpu"});
  refuses(decoder, {"distributed.zero=2"}, {"distributed.zero: 2", "within every pass"});
  refuses(decoder, {"distributed.zero=3"}, {"distributed.zero: 3", "within every pass"});
  refuses(decoder, {"distributed.reduce=ordered"}, {"distributed.reduce: ordered"});
  refuses(decoder, {"guards.replay_every=5"}, {"guards.replay_every"});
  refuses(decoder, {"log.trace={from: 1}"}, {"log.trace"});
  refuses(test::kBlockModel, {"train.block_losses.decoding=mse"}, {"train.block_losses.decoding"});
  std::string padded = test::kBlockModel;
  padded.replace(padded.find("prefix_length: 2"), 16, "prefix_length: 2, pad: random");
  refuses(padded, {"train.document_mask=true"}, {"train.document_mask", "Block Transformer"});
  Counts counts;
  test::expect_error(ErrorCode::kRequest, {"train.cuda_graphs", "distributed.zero: 2"}, [&] {
    run(decoder, 2, {"distributed.zero=2"}, [&] { return std::make_unique<HostGraphs>(counts); });
  });
}

TEST_F(PassGraphTraining, WithoutAGpuItIsRefused) {
  if (cuda_device_count() > 0) GTEST_SKIP() << "there is a GPU";
  Node root = parse_yaml(f_.yaml("unused"), "t.yaml");
  apply_overrides(root, {"train.cuda_graphs=true"});
  TrainConfig config = train_config_from(root);
  test::expect_error(ErrorCode::kRequest, {"train.cuda_graphs", "needs a GPU"},
                     [&] { resolve_machine_choices(config); });
}

TEST_F(PassGraphTraining, TheKeyIsPartOfTheResolvedConfiguration) {
  Node root = parse_yaml(f_.yaml("unused"), "t.yaml");
  const auto resolved = [&] {
    return resolved_config(root, train_config_from(root)).find("train")->find("cuda_graphs");
  };
  EXPECT_FALSE(resolved()->as_bool());
  apply_overrides(root, {"train.cuda_graphs=true"});
  EXPECT_TRUE(resolved()->as_bool());
}

// One recording -----------------------------------------------------------------------------------

// A pass over one parameter of five elements: loss Σ tokens·weights, gradient weights[0].
class OnePassGraph : public ::testing::Test {
 protected:
  OnePassGraph() { reducer_.begin_step(); }

  PassGraph graph(HostGraphs::Replay replay = {}) {
    return {std::make_unique<HostGraphs>(counts_, false, std::move(replay)), units_, reducer_,
            groups_, [this](const BatchTensors& in) {
              given_.push_back(in);
              reducer_.add(0, 0, in.weights[0]);
              return (in.tokens * in.weights.to(at::kDouble)).sum() + offset_;
            }};
  }
  static BatchTensors batch(int64_t token, double weight, int64_t rows = 2) {
    const Tensor tokens = at::full({rows, 5}, token, at::kLong);
    return {tokens, tokens, at::full({rows, 5}, weight, at::kFloat), {}};
  }
  float gradient() const { return reducer_.own(0)[0].item<float>(); }

  Counts counts_;
  std::unique_ptr<Communicator> alone_ = make_single_communicator();
  ShardGroups groups_{alone_.get(), alone_.get(), alone_.get()};
  WaitTally waits_;
  const std::vector<std::pair<size_t, int64_t>> sizes_ = {{0, 5}};
  UnitLayout layout_ = make_unit_layout("the unit", sizes_, 1);
  GradientReducer reducer_{{&layout_}, 0, Reduction::kFp32, groups_, waits_};
  std::vector<std::unique_ptr<ParameterUnit>> units_;
  std::vector<BatchTensors> given_;
  double offset_ = 0;
};

TEST_F(OnePassGraph, ReplaysReadTheSameMemoryWithTheNewSamples) {
  PassGraph g = graph();
  EXPECT_EQ(g.run(batch(3, 0.5), 0).item<double>(), 15.0);
  EXPECT_EQ(gradient(), 0.5f);
  const BatchTensors first = given_.back();
  const BatchTensors second = batch(7, 0.25);
  EXPECT_EQ(g.run(second, 0).item<double>(), 17.5);
  EXPECT_EQ(gradient(), 0.75f);
  const BatchTensors& read = given_.back();
  EXPECT_EQ(read.tokens.data_ptr(), first.tokens.data_ptr());
  EXPECT_EQ(read.weights.data_ptr(), first.weights.data_ptr());
  EXPECT_NE(read.tokens.data_ptr(), second.tokens.data_ptr());
  // The caller's loss is its own: another replay leaves it alone.
  const Tensor kept = g.run(batch(1, 1.0), 1);
  g.run(batch(2, 1.0), 1);
  EXPECT_EQ(kept.item<double>(), 10.0);
}

TEST_F(OnePassGraph, EveryShapeHasARecordingAndThereAreTwo) {
  PassGraph g = graph();
  g.run(batch(1, 1.0, 2), 0);
  g.run(batch(1, 1.0, 1), 0);
  g.run(batch(1, 1.0, 2), 1);
  EXPECT_EQ(counts_.captures, 2);
  test::expect_error(ErrorCode::kInternal, {"kMostGraphs"}, [&] { g.run(batch(1, 1.0, 3), 1); });
}

TEST_F(OnePassGraph, OneBitOfAGradientIsEnough) {
  PassGraph g = graph([this](const Work& work) {
    work();
    reducer_.own(0).view(at::kInt)[4].bitwise_xor_(1);
  });
  test::expect_error(ErrorCode::kInternal, {"train.cuda_graphs", "gradients of the unit"},
                     [&] { g.run(batch(1, 1.0), 0); });
}

// A device that put the first samples back: right in the first step, where a replay is the pass it
// was recorded from.
TEST_F(OnePassGraph, OldSamplesAreSeenInTheSecondStep) {
  Tensor read;
  PassGraph g = graph([&](const Work& work) {
    if (read.defined()) read.fill_(3);
    work();
  });
  g.run(batch(3, 0.5), 0);
  read = given_.back().tokens;
  test::expect_error(ErrorCode::kInternal, {"train.cuda_graphs", "the loss, 15 instead of 35"},
                     [&] { g.run(batch(7, 0.5), 1); });
}

TEST_F(OnePassGraph, PassesThatDifferCannotBeRecorded) {
  PassGraph g{std::make_unique<HostGraphs>(counts_), units_, reducer_, groups_,
              [this](const BatchTensors& in) {
                offset_ += 1;
                return in.weights.to(at::kDouble).sum() + offset_;
              }};
  test::expect_error(ErrorCode::kRequest, {"train.cuda_graphs", "not deterministic", "the loss"},
                     [&] { g.run(batch(1, 1.0), 0); });
}

}  // namespace
}  // namespace ashlar

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "core/comm/simulated.h"
#include "data/shards/batch_source.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"
#include "tests/train/run_state.h"
#include "train/memory_use.h"
#include "train/run.h"
#include "train/run_plan.h"
#include "train/trainer.h"

namespace ashlar {
namespace {

using test::Fixture;

TEST(MemoryUse, CountsWhatTensorsTake) {
  count_memory();
  const int64_t before = memory_use().current;
  constexpr int64_t kBytes = int64_t{1} << 20;
  // What the C library rounds up to: a page at most.
  constexpr int64_t kPage = 4096;
  {
    const at::Tensor t = at::empty({kBytes}, at::kByte);
    EXPECT_GE(memory_use().current - before, kBytes);
    EXPECT_LE(memory_use().current - before, kBytes + kPage);
  }
  EXPECT_EQ(memory_use().current, before);
  EXPECT_GE(memory_use().peak - before, kBytes);
  reset_memory_peak();
  EXPECT_EQ(memory_use().peak, before);
}

TEST(MemoryUse, ALimitIsAnErrorAndLeavesTheCountAlone) {
  count_memory();
  const int64_t before = memory_use().current;
  limit_memory(before + (1 << 20));
  const at::Tensor fits = at::empty({1 << 19}, at::kByte);
  test::expect_error(ErrorCode::kResource, {"train.memory_limit", "limit of"},
                     [] { at::empty({1 << 20}, at::kByte); });
  EXPECT_LT(memory_use().current, before + (1 << 20));
  limit_memory(0);
  EXPECT_NO_THROW(at::empty({1 << 20}, at::kByte));
}

TEST(MemoryUse, KnowsWhatSaysThatMemoryRanOut) {
  EXPECT_TRUE(out_of_memory(std::bad_alloc()));
  EXPECT_TRUE(out_of_memory(Error(ErrorCode::kResource, "x")));
  EXPECT_FALSE(out_of_memory(Error(ErrorCode::kData, "x")));
  EXPECT_FALSE(out_of_memory(std::runtime_error("x")));
  try {
    at::empty({std::numeric_limits<int64_t>::max() / 2}, at::kByte);
    ADD_FAILURE() << "that much memory does not exist";
  } catch (const std::exception& error) {
    EXPECT_TRUE(out_of_memory(error)) << error.what();
  }
}

TEST(MemorySize, IsReadWithUnits) {
  const auto bytes = [](const char* text) {
    return read_bytes(*parse_yaml(std::string("m: ") + text, "t.yaml").find("m"), "m");
  };
  EXPECT_EQ(bytes("123"), 123);
  EXPECT_EQ(bytes("4GiB"), int64_t{4} << 30);
  EXPECT_EQ(bytes("1.5 kB"), 1500);
  for (const char* wrong : {"-1", "GiB", "4 XB", "-4GiB", "1e30GiB"}) {
    test::expect_error(ErrorCode::kRequest, {"t.yaml:1"}, [&] { bytes(wrong); });
  }
}

// Wide enough that padding and the C library's rounding do not dominate.
const char* const kDecoder =
    "  kind: decoder\n"
    "  decoder: {d_model: 128, layers: 6, kv_sharing: cla2, ffn: {d_ff: 352},\n"
    "    attention: {heads: 4, kv_heads: 2, head_dim: 32}}\n";
const char* const kTied =
    "  kind: decoder\n"
    "  tied_head: true\n"
    "  decoder: {d_model: 128, layers: 4, ffn: {d_ff: 352}, attention: {heads: 4, head_dim: 32}}\n";
const char* const kBlock =
    "  kind: block_transformer\n"
    "  block: {length: 4, prefix_length: 2}\n"
    "  global: {d_model: 128, layers: 4, kv_sharing: cla2, ffn: {d_ff: 352},\n"
    "    attention: {heads: 4, kv_heads: 2, head_dim: 32}}\n"
    "  local: {d_model: 128, layers: 3, ffn: {d_ff: 352}, attention: {heads: 4, head_dim: 32}}\n";

class MemoryPlan : public ::testing::Test {
 protected:
  TrainConfig config(const char* model, std::vector<std::string> overrides,
                     const char* precision = "fp32") const {
    Node root = parse_yaml(f_.yaml("unused", model, precision), "t.yaml");
    overrides.insert(overrides.begin(), {"model.vocab_size=2048"});
    apply_overrides(root, overrides);
    TrainConfig out = train_config_from(root);
    resolve_machine_choices(out);
    return out;
  }

  // Bytes of tensors at the worst moment of two steps and before, as one of `ranks` ranks.
  double used(const TrainConfig& c, int64_t ranks) const {
    count_memory();
    const ShardSet shards(f_.dir / "train");
    const BatchSource source(shards, c.context, c.seed);
    SimulatedNetwork network;
    network.between = {0, 1e15};
    const auto world = make_simulated_communicator(
        0, ranks, std::make_shared<SimulatedTimeline>(network, SimulatedClock::real()));
    const int64_t before = memory_use().current;
    reset_memory_peak();
    Trainer trainer(c, 0, *world);
    for (int i = 0; i < 2; ++i) trainer.step(source);
    return static_cast<double>(memory_use().peak - before);
  }

  void expect_planned(const char* model, const std::vector<std::string>& overrides, int64_t ranks,
                      const char* precision = "fp32") const {
    TrainConfig c = config(model, overrides, precision);
    c.batch_size = 2 * ranks * c.micro_batch;  // two passes
    const RunShape run = run_shape(c, c.precision == Precision::kBf16);
    const TrainingMemory plan = training_memory(c.model, run, ranks);
    const double actual = used(c, ranks);
    EXPECT_NEAR(plan.tensors() / actual, 1, kTolerance)
        << model << fmt::format("{}", fmt::join(overrides, " ")) << ", " << ranks << " ranks, "
        << precision << ": planned " << plan.tensors() << " (" << memory_parts_text(plan)
        << "), used " << actual;
  }

  // Of what was used. The plan leaves out temporaries of operators, masks and tables.
  static constexpr double kTolerance = 0.15;
  Fixture f_;
};

TEST_F(MemoryPlan, OfEveryStageIsWhatIsUsed) {
  for (const char* model : {kDecoder, kTied, kBlock}) {
    for (const int64_t ranks : {1, 4}) {
      for (int64_t zero = 0; zero <= 3; ++zero) {
        expect_planned(model, {fmt::format("distributed.zero={}", zero)}, ranks);
      }
    }
  }
}

TEST_F(MemoryPlan, OfPrecisionOptimizerAndSumsIsWhatIsUsed) {
  for (int64_t zero = 0; zero <= 3; ++zero) {
    const std::string stage = fmt::format("distributed.zero={}", zero);
    expect_planned(kDecoder, {stage}, 4, "bf16");
    expect_planned(kDecoder, {stage, "distributed.reduce=bf16"}, 4);
    expect_planned(kDecoder, {stage, "distributed.reduce=ordered"}, 4);
    expect_planned(kDecoder, {stage, "optimizer={kind: lion, lr: 1.0e-3}"}, 4);
    expect_planned(kDecoder, {stage, "optimizer={kind: muon, lr: 1.0e-3}"}, 4);
    expect_planned(kDecoder, {stage, "ema={decay: 0.9}"}, 4);
    expect_planned(kDecoder, {stage, "train.recompute=all"}, 4);
    expect_planned(kDecoder, {stage, "train.micro_batch=4"}, 4);
  }
}

TEST_F(MemoryPlan, AdviceIsWhatItWouldSave) {
  const TrainConfig c = config(kDecoder, {"train.micro_batch=4"});
  const double planned = training_memory(c.model, run_shape(c, false), 4).tensors();
  const auto advice = memory_advice(c, 4);
  ASSERT_FALSE(advice.empty());
  for (size_t i = 1; i < advice.size(); ++i) EXPECT_GE(advice[i - 1].saved, advice[i].saved);
  const auto zero = std::find_if(advice.begin(), advice.end(), [](const MemoryAdvice& a) {
    return a.change == "distributed.zero: 3 instead of 0";
  });
  ASSERT_NE(zero, advice.end());
  const TrainConfig shared = config(kDecoder, {"train.micro_batch=4", "distributed.zero=3"});
  EXPECT_EQ(zero->saved,
            planned - training_memory(shared.model, run_shape(shared, false), 4).tensors());
}

TEST_F(MemoryPlan, RunningOutSaysWhatIsLargeAndWhatHelps) {
  Node root = parse_yaml(f_.yaml("out", kDecoder), "t.yaml");
  const int64_t limit = memory_use().current + (int64_t{8} << 20);
  apply_overrides(root, {"model.vocab_size=2048", "train.memory_limit=" + std::to_string(limit)});
  test::expect_error(ErrorCode::kResource,
                     {"out of memory", "train.memory_limit", "Planned", "the largest part",
                      "What would help", "saves about"},
                     [&] { run_training(root, {}); });
  limit_memory(0);
}

}  // namespace
}  // namespace ashlar

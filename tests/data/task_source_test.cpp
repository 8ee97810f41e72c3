#include "data/shards/task_source.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/base/error.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;

std::unique_ptr<TaskGenerator> mqar(int64_t length = 24, int64_t pairs = 3) {
  return make_generator(
      "mqar", Node::Map{{"length", length}, {"pairs", pairs}, {"vocab", 64}, {"seed", 5}}, nullptr);
}

// By the definition: behind a marker row t is asked for token t, else for token t + 1; only answers
// count.
TEST(TaskSource, RowsAreExamplesWithWeightOnAnswers) {
  for (bool marker : {true, false}) {
    TaskSourceOptions options;
    options.eos = 7;
    options.marker = marker;
    const TaskSource source(mqar(), 30, options);
    const std::vector<int64_t> samples{0, 9, 4};
    const Batch batch = source.batch(samples);
    ASSERT_EQ(batch.rows, 3);
    EXPECT_EQ(batch.context, 30);
    EXPECT_EQ(batch.cursor, 0);
    for (size_t r = 0; r < samples.size(); ++r) {
      const TaskExample example = mqar()->example(static_cast<uint64_t>(samples[r]));
      std::vector<int32_t> text = example.tokens;
      std::vector<uint8_t> answer = example.answer;
      if (marker) {
        text.insert(text.begin(), 7);
        answer.insert(answer.begin(), 0);
      }
      text.resize(31, 7);
      answer.resize(31, 0);
      float weight = 0;
      for (size_t t = 0; t < 30; ++t) {
        const size_t at = r * 30 + t;
        EXPECT_EQ(batch.tokens[at], text[t]);
        EXPECT_EQ(batch.targets[at], text[t + 1]);
        EXPECT_EQ(batch.loss_weight[at], static_cast<float>(answer[t + 1]));
        EXPECT_EQ(batch.positions[at], static_cast<int32_t>(t));
        EXPECT_EQ(batch.segment_ids[at], 0);
        weight += batch.loss_weight[at];
      }
      EXPECT_EQ(weight, 3.0F) << "every pair is asked once";
    }
  }
}

TEST(TaskSource, AnEpochHoldsEveryExampleOnce) {
  TaskSourceOptions options;
  options.examples = 20;
  const TaskSource source(mqar(), 24, options);
  EXPECT_EQ(source.windows(), 20);
  std::vector<std::vector<std::vector<int32_t>>> epochs(2);
  std::set<std::vector<int32_t>> whole;
  for (int64_t k = 0; k < 40; ++k) {
    const std::vector<int64_t> one{k};
    epochs[static_cast<size_t>(k / 20)].push_back(source.batch(one).targets);
  }
  for (uint64_t i = 0; i < 20; ++i) whole.insert(mqar()->example(i).tokens);
  for (auto& epoch : epochs) {
    EXPECT_EQ(std::set<std::vector<int32_t>>(epoch.begin(), epoch.end()), whole);
  }
  EXPECT_NE(epochs[0], epochs[1]) << "another order";
}

TEST(TaskSource, EndlessSamplesAreTheExamples) {
  const TaskSource source(mqar(), 24, {});
  EXPECT_GT(source.windows(), int64_t{1} << 60);
  const std::vector<int64_t> far{int64_t{1} << 40};
  EXPECT_EQ(source.batch(far).targets, mqar()->example(uint64_t{1} << 40).tokens);
  expect_error(ErrorCode::kRequest, {"24 tokens", "context of 20"},
               [] { TaskSource(mqar(), 20, {}); });
}

}  // namespace
}  // namespace ashlar

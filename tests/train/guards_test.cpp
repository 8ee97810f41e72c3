#include "train/guards.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/rng.h"
#include "core/config/config.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

GuardConfig spikes(GuardAction action, int64_t window = 16, double z = 4) {
  GuardConfig config;
  config.spike = action;
  config.window = window;
  config.z = z;
  return config;
}

// Losses around 3 with deviation 0.1, norms around 1 with deviation 0.05.
double loss_of(uint64_t i) { return 3 + 0.1 * Philox(1).normal(i); }
double norm_of(uint64_t i) { return 1 + 0.05 * Philox(2).normal(i); }

TEST(Guard, NonFiniteValuesDoWhatIsConfigured) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const GuardAction action : {GuardAction::kSkip, GuardAction::kRewind, GuardAction::kStop}) {
    GuardConfig config;
    config.non_finite = action;
    for (const auto& [loss, norm] : {std::pair(nan, 1.0), std::pair(1.0, nan),
                                     std::pair(infinity, 1.0), std::pair(1.0, infinity)}) {
      const Guard::Verdict verdict = Guard(config).judge(loss, norm);
      EXPECT_EQ(verdict.action, action);
      EXPECT_NE(verdict.reason.find("the loss is"), std::string::npos);
    }
    EXPECT_EQ(Guard(config).judge(1e30, 1e30).action, GuardAction::kApply) << "finite";
  }
}

TEST(Guard, SpikesAreMeasuredAgainstAWholeWindow) {
  for (const bool in_loss : {true, false}) {
    Guard guard(spikes(GuardAction::kSkip));
    const auto judge = [&](double up, uint64_t i) {
      return guard.judge(loss_of(i) + (in_loss ? up : 0), norm_of(i) + (in_loss ? 0 : up)).action;
    };
    // 15 values: one short of a window, so even a wild one passes; it stays in the window.
    for (uint64_t i = 0; i < 15; ++i) EXPECT_EQ(judge(0, i), GuardAction::kApply);
    EXPECT_EQ(judge(50, 15), GuardAction::kApply);
    EXPECT_EQ(judge(50, 16), GuardAction::kApply) << "as large as one of the window";
    for (uint64_t i = 17; i < 40; ++i) EXPECT_EQ(judge(0, i), GuardAction::kApply) << i;
    EXPECT_EQ(judge(5, 40), GuardAction::kSkip);
    EXPECT_EQ(judge(5, 41), GuardAction::kSkip) << "a skipped value does not enter the window";
    EXPECT_EQ(judge(-2, 42), GuardAction::kApply) << "falling is no spike";
  }
}

TEST(Guard, InterventionsInARowStopTheRun) {
  GuardConfig config = spikes(GuardAction::kSkip, 8);
  config.non_finite = GuardAction::kSkip;
  config.limit = 3;
  Guard guard(config);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(guard.judge(NAN, 1).action, GuardAction::kSkip);
  EXPECT_EQ(guard.judge(1, 1).action, GuardAction::kApply);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(guard.judge(NAN, 1).action, GuardAction::kSkip);
  const Guard::Verdict verdict = guard.judge(NAN, 1);
  EXPECT_EQ(verdict.action, GuardAction::kStop);
  EXPECT_NE(verdict.reason.find("guards.limit"), std::string::npos);
}

// What a checkpoint keeps is enough to go on with the same verdicts.
TEST(Guard, StateGoesThroughACheckpoint) {
  Guard straight(spikes(GuardAction::kSkip));
  for (uint64_t i = 0; i < 30; ++i) straight.judge(loss_of(i), norm_of(i));
  Guard restored(spikes(GuardAction::kSkip));
  restored.restore(straight.state());
  EXPECT_EQ(write_yaml(restored.state()), write_yaml(straight.state()));
  for (uint64_t i = 30; i < 60; ++i) {
    const double up = i % 7 == 0 ? 1 : 0;
    EXPECT_EQ(restored.judge(loss_of(i) + up, norm_of(i)).action,
              straight.judge(loss_of(i) + up, norm_of(i)).action);
  }
}

TEST(GuardConfig, ReadsBackAsTheSame) {
  const GuardConfig config = read_guards(
      parse_yaml("non_finite: rewind\nspike: stop\nwindow: 32\nz: 5\nlimit: 2\nreplay_every: 100\n",
                 "g.yaml"));
  EXPECT_EQ(config.non_finite, GuardAction::kRewind);
  EXPECT_EQ(config.spike, GuardAction::kStop);
  EXPECT_EQ(write_yaml(to_node(read_guards(to_node(config)))), write_yaml(to_node(config)));
  EXPECT_EQ(config.replay_every, 100);
  for (const char* wrong : {"spike: maybe", "window: 1", "z: 0", "limit: 0", "zscore: 3"}) {
    test::expect_error(ErrorCode::kRequest, {"guards"},
                       [&] { read_guards(parse_yaml(wrong, "g.yaml")); });
  }
}

}  // namespace
}  // namespace ashlar

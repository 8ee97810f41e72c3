#include "train/checkpoint/together.h"

#include <gtest/gtest.h>

#include "tests/train/checkpoint_fixture.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

TEST(Together, AllRanksTakeTheSameCheckpoint) {
  const test::TempDir run;
  for (const int64_t step : {2, 4, 6, 8}) test::save_step(run.path(), step, 3);
  fs::remove(test::step_folder(run.path(), 8) / "rank_00001.h5");
  test::flip(test::step_folder(run.path(), 6) / "rank_00002.h5", 700);  // one rank sees this
  for (const int64_t world : {1, 2, 3, 4}) {
    const test::LogCapture log;
    LocalStore store;
    test::on_ranks(world, [&](int64_t rank) {
      SharedVerifier verifier(rank, world, store, 30s);
      for (int again = 0; again < 2; ++again) {
        const auto newest = verifier.newest(run.path());
        ASSERT_TRUE(newest.has_value());
        EXPECT_EQ(*newest, test::step_folder(run.path(), 4));
        EXPECT_EQ(CheckpointReader(*newest, Verify::kSizes).manifest().position.step, 4);
      }
      verifier.verify(test::step_folder(run.path(), 2));
      test::expect_error(ErrorCode::kData, {"step_00000006/rank_00002.h5", "SHA-256"},
                         [&] { verifier.verify(test::step_folder(run.path(), 6)); });
      EXPECT_EQ(verifier.newest(run.path() / "nothing"), std::nullopt);
    });
    EXPECT_NE(log.text().find("step_00000006/rank_00002.h5"), std::string::npos) << log.text();
    EXPECT_NE(log.text().find("step_00000008/rank_00001.h5"), std::string::npos) << log.text();
  }
}

TEST(Together, ARankThatDoesNotAnswerIsNamed) {
  const test::TempDir run;
  test::save_step(run.path(), 2);
  LocalStore store;
  test::on_ranks(2, [&](int64_t rank) {  // of three
    SharedVerifier verifier(rank, 3, store, 300ms);
    test::expect_error(ErrorCode::kIo, {"rank 2 did not finish", "step_00000002"},
                       [&] { verifier.newest(run.path()); });
  });
  LocalStore empty;
  SharedVerifier alone(1, 2, empty, 50ms);
  test::expect_error(ErrorCode::kIo, {"rank 0 did not say"}, [&] { alone.newest(run.path()); });
}

}  // namespace
}  // namespace ashlar

#include "export/checkpoint_model.h"

#include <gtest/gtest.h>

#include "tests/support/random_model.h"
#include "tests/train/checkpoint_fixture.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

// The weights that a checkpoint holds do not depend on how many ranks wrote it.
TEST(CheckpointModel, IsTheSameFromAnyNumberOfRanks) {
  const ModelSpec spec = test::small_block();
  const ModelData model = test::random_model(spec, 5);
  for (const int64_t world : {1, 3, 4}) {
    const test::TempDir run;
    LocalStore store;
    test::on_ranks(world, [&](int64_t rank) {
      CheckpointSaver saver(test::saver_options(run.path(), rank, world), store);
      Snapshot snapshot;
      for (const ParameterSpec& p : parameters(spec)) {
        const std::vector<float> values = to_floats(model.tensor(p.name));
        test::add_share(snapshot, "parameters/" + p.name, p.shape, rank, world,
                        [&](int64_t i) { return values[static_cast<size_t>(i)]; });
      }
      CheckpointManifest manifest = test::manifest_at(4);
      manifest.spec = spec;
      saver.save(std::move(manifest), std::move(snapshot));
      EXPECT_TRUE(saver.finish().at(0).ok);
    });
    EXPECT_EQ(weights_sha256(model_from_checkpoint(run.path())), weights_sha256(model)) << world;
  }
}

}  // namespace
}  // namespace ashlar

#include <gtest/gtest.h>

#include "data/shards/batch_source.h"
#include "tests/train/run_state.h"
#include "train/trainer.h"

// train.cuda_graphs against the same training without, on one GPU.

namespace ashlar {
namespace {

TEST(CudaGraphs, GiveTheBitsOfPasses) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU to be seen";
  const test::Fixture f;
  const ShardSet shards(f.dir / "train");
  for (const char* const model : {test::kDecoderModel, test::kBlockModel}) {
    for (const char* const precision : {"fp32", "bf16"}) {
      for (const char* const zero : {"distributed.zero=0", "distributed.zero=1"}) {
        const auto run = [&](const char* graphs) {
          Node root = parse_yaml(f.yaml("unused", model, precision), "t.yaml");
          apply_overrides(root, {"train.device=cuda", "train.batch_size=7", graphs, zero});
          TrainConfig config = train_config_from(root);
          resolve_machine_choices(config);
          const BatchSource source(shards, config.context, config.seed);
          Trainer trainer(config, 0);
          std::vector<float> out;
          for (int64_t s = 0; s < 4; ++s) {
            const StepResult r = trainer.step(source);
            out.insert(out.end(), {static_cast<float>(r.loss), static_cast<float>(r.grad_norm)});
          }
          for (const StatePiece& p : trainer.state()) {
            out.insert(out.end(), p.values.begin(), p.values.end());
          }
          return out;
        };
        EXPECT_EQ(run("train.cuda_graphs=true"), run("train.cuda_graphs=false"))
            << precision << " " << zero;
      }
    }
  }
}

}  // namespace
}  // namespace ashlar

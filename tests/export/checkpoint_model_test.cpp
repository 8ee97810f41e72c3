#include "export/checkpoint_model.h"

#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "models/spec/lora.h"
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

std::vector<float> values_of(const ParameterSpec& p, uint64_t stream) {
  const Philox random(11, stream);
  std::vector<float> out;
  for (int64_t i = 0; i < p.numel(); ++i) {
    out.push_back(static_cast<float>(random.normal(static_cast<uint64_t>(i))));
  }
  return out;
}

// A checkpoint of random weights with adapters, except the one called `missing`.
void write_run(const std::filesystem::path& run, const LoraSpec& lora, bool configured,
               const std::string& missing = "") {
  CheckpointManifest manifest;
  manifest.position.step = 1;
  manifest.spec = test::small_decoder();
  manifest.config = Node::map();
  if (configured) manifest.config.set("lora", lora_node(lora));
  std::filesystem::create_directories(run);
  LocalStore store;
  CheckpointSaver saver(test::saver_options(run), store);
  Snapshot snapshot;
  const auto specs = parameters(manifest.spec);
  const auto write = [&](const ParameterSpec& p, uint64_t stream) {
    if (p.name != missing) snapshot.add("parameters/" + p.name, p.shape, 0, values_of(p, stream));
  };
  for (size_t i = 0; i < specs.size(); ++i) write(specs[i], i);
  for (const LoraAdapter& adapter : lora_adapters(lora, specs)) {
    write(adapter.down, 1000 + adapter.target);
    write(adapter.up, 2000 + adapter.target);
  }
  saver.save(std::move(manifest), std::move(snapshot));
  EXPECT_TRUE(saver.finish().at(0).ok);
}

TEST(CheckpointModel, AdaptersAreMerged) {
  const test::TempDir dir;
  const LoraSpec lora{2, 5, {"*.v_proj.*", "*.2.mlp.down_proj.weight"}};
  write_run(dir / "run", lora, true);
  const ModelData model = model_from_checkpoint(dir / "run");
  const auto specs = parameters(model.spec);
  EXPECT_EQ(model.tensors.size(), specs.size());
  const auto adapters = lora_adapters(lora, specs);
  EXPECT_EQ(adapters.size(), 5u);
  for (size_t i = 0; i < specs.size(); ++i) {
    std::vector<float> expected = values_of(specs[i], i);
    for (const LoraAdapter& adapter : adapters) {
      if (adapter.target != i) continue;
      expected = merge_adapter(expected, values_of(adapter.down, 1000 + i),
                               values_of(adapter.up, 2000 + i), 2, 2.5);
      EXPECT_NE(expected, values_of(specs[i], i));
    }
    EXPECT_EQ(to_floats(model.tensor(specs[i].name)), expected) << specs[i].name;
  }
}

TEST(CheckpointModel, AdaptersAndConfigurationBelongTogether) {
  const test::TempDir dir;
  const LoraSpec lora{2, 5, {"*.v_proj.*"}};
  write_run(dir / "a", lora, false);
  test::expect_error(ErrorCode::kData, {"v_proj.weight.lora_a", "no lora"},
                     [&] { model_from_checkpoint(dir / "a"); });
  const std::string name = "model.layers.1.self_attn.v_proj.weight.lora_b";
  write_run(dir / "b", lora, true, name);
  test::expect_error(ErrorCode::kData, {name}, [&] { model_from_checkpoint(dir / "b"); });
}

}  // namespace
}  // namespace ashlar

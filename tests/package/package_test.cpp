#include "package/format/package.h"

#include <gtest/gtest.h>

#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "package/import/llama2c.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

TEST(Package, EveryArchitectureRoundTrips) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    SCOPED_TRACE(name);
    const test::TempDir dir;
    ModelData model = test::random_model(spec, 5);
    model.tokenizer_json = "{}";
    model.stop_tokens = {0, 3};
    model.kv_codec = {"q4", "q8"};
    write_package(model, dir / "m");
    ASSERT_TRUE(is_package(dir / "m"));
    const ModelData back = read_package(dir / "m");
    EXPECT_EQ(back.spec, model.spec);
    EXPECT_EQ(back.kv_codec, model.kv_codec);
    EXPECT_EQ(back.stop_tokens, model.stop_tokens);
    EXPECT_EQ(back.tokenizer_json, "{}");
    EXPECT_EQ(weights_sha256(back), weights_sha256(model));
    EXPECT_EQ(load_json(dir / "m/config.json").find("ashlar")->find("weights_sha256")->as_string(),
              weights_sha256(model));
  }
}

TEST(Package, OnlyPlainDecodersCarryHuggingFaceKeys) {
  const test::TempDir dir;
  write_package(test::random_model(test::small_decoder(), 1), dir / "plain");
  const Node plain = load_json(dir / "plain/config.json");
  EXPECT_EQ(plain.find("model_type")->as_string(), "llama");
  EXPECT_EQ(plain.find("num_key_value_heads")->as_int(), 2);
  write_package(test::random_model(test::small_decoder("cla2"), 1), dir / "cla");
  const Node cla = load_json(dir / "cla/config.json");
  EXPECT_EQ(cla.find("model_type")->as_string(), "ashlar");
  EXPECT_EQ(cla.find("architectures"), nullptr);
}

void edit_config(const fs::path& package, const std::function<void(Node&)>& edit) {
  Node config = load_json(package / "config.json");
  edit(config);
  test::write_text(package / "config.json", write_json(config));
}

TEST(Package, BadPackagesAreRefusedWithFileAndReason) {
  const test::TempDir dir;
  const fs::path path = dir / "m";
  write_package(test::random_model(test::small_decoder(), 1), path);
  const auto refuses = [&](ErrorCode code, const std::vector<std::string>& fragments) {
    test::expect_error(code, fragments, [&] { read_package(path); });
  };
  const std::string good = read_file(path / "config.json");
  edit_config(path, [](Node& c) { c.find("ashlar")->set("format_version", 99); });
  refuses(ErrorCode::kRequest, {"config.json", "99 is newer", "update Ashlar"});
  test::write_text(path / "config.json", good);
  edit_config(path, [](Node& c) { c.find("ashlar")->set("surprise", 1); });
  refuses(ErrorCode::kRequest, {"config.json", "ashlar.surprise: unknown key"});
  test::write_text(path / "config.json", good);
  edit_config(path, [](Node& c) { c.find("ashlar")->find("spec")->set("vocab_size", 62); });
  refuses(ErrorCode::kData, {"embed_tokens.weight", "[61, 32]", "needs [62, 32]"});
  test::write_text(path / "config.json", good.substr(0, good.size() / 2));
  refuses(ErrorCode::kData, {"config.json", "invalid JSON"});
  test::write_text(path / "config.json", good);
  const std::string weights = read_file(path / "model.safetensors");
  test::write_text(path / "model.safetensors", weights.substr(0, weights.size() - 1));
  refuses(ErrorCode::kData, {"model.safetensors", "truncated"});
  test::write_text(path / "generation_config.json", R"({"bos_token_id":0,"eos_token_id":61})");
  test::write_text(path / "model.safetensors", weights);
  refuses(ErrorCode::kData, {"stop token 61 is outside the vocabulary of 61"});
  fs::remove(path / "model.safetensors");
  EXPECT_THROW(read_package(path), Error);
  test::expect_error(ErrorCode::kRequest, {"none", "no such package"},
                     [&] { read_package(dir / "none"); });
  test::expect_error(ErrorCode::kRequest, {"exists already"},
                     [&] { write_package(test::random_model(test::small_decoder(), 1), path); });
}

TEST(Package, AFailedWriteLeavesNothing) {
  const test::TempDir dir;
  ModelData model = test::random_model(test::small_decoder(), 1);
  model.tensors.erase("lm_head.weight");
  test::expect_error(ErrorCode::kData, {"lm_head.weight", "missing"},
                     [&] { write_package(model, dir / "m"); });
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Llama2c, ReadsTheRealModelAndRefusesItsTruncations) {
  const fs::path real = test::shared_data("stories260K.bin");
  if (real.empty()) GTEST_SKIP() << "stories260K.bin is absent";
  const ModelData model = import_llama2c(real, "");
  EXPECT_EQ(parameter_count(model.spec), 260032);
  EXPECT_TRUE(model.spec.tied_head);
  EXPECT_EQ(model.spec.stacks[0].layers[0].attention.head_dim, 8);
  const test::TempDir dir;
  const std::string bytes = read_file(real);
  for (size_t n : {size_t{0}, size_t{27}, size_t{28}, bytes.size() / 2, bytes.size() - 1}) {
    test::write_text(dir / "cut.bin", bytes.substr(0, n));
    EXPECT_FALSE(looks_like_llama2c(dir / "cut.bin"));
    test::expect_error(ErrorCode::kData, {"cut.bin", "truncated"},
                       [&] { import_llama2c(dir / "cut.bin", ""); });
  }
  std::string wrong = bytes;
  wrong[0] = 3;  // dim 67 with 8 heads
  test::write_text(dir / "wrong.bin", wrong);
  test::expect_error(ErrorCode::kData, {"wrong.bin", "n_heads 8 for dim"},
                     [&] { import_llama2c(dir / "wrong.bin", ""); });
}

}  // namespace
}  // namespace ashlar

#include "export/gguf.h"

#include <gtest/gtest.h>

#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "package/format/package.h"
#include "package/import/gguf_blocks.h"
#include "package/import/gguf_model.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

const std::string kHeads = "heads: 4, kv_heads: 2, head_dim: 8";
const std::string kSwiGlu = "d_ff: 64";

ModelSpec neox(const std::string& model = "") {
  return test::decoder_variant("heads: 4, head_dim: 8, rope_dim: 4, bias: all",
                               ", norm: {kind: layernorm}, residual: parallel",
                               "kind: gelu, d_ff: 64, bias: true", model);
}

std::vector<std::pair<std::string, ModelSpec>> plain_specs() {
  const auto scaled = [](const std::string& scaling) {
    return test::decoder_variant(
        "heads: 2, head_dim: 64, rope_theta: 500000, rope_scaling: {" + scaling + "}", "", kSwiGlu);
  };
  return {{"llama", test::decoder_variant(kHeads, "", kSwiGlu)},
          {"llama", test::decoder_variant(kHeads, "", kSwiGlu, "tied_head: true\n")},
          {"llama",
           test::decoder_variant(kHeads + ", rope_dim: 4, bias: all", "", "d_ff: 64, bias: true")},
          {"llama", scaled("kind: llama3, factor: 8, original_context: 8192")},
          {"llama", scaled("kind: llama3, factor: 4, original_context: 2048")},
          {"llama", scaled("kind: linear, factor: 2.5")},
          {"llama", scaled("kind: yarn, factor: 4, original_context: 64, beta_fast: 16")},
          {"llama", test::decoder_variant(kHeads + ", window: 256", "", kSwiGlu)},
          {"qwen2", test::decoder_variant(kHeads + ", bias: qkv", "", kSwiGlu)},
          {"qwen3", test::decoder_variant(kHeads + ", qk_norm: true", "", kSwiGlu)},
          {"gptneox", neox()},
          {"gptneox", neox("tied_head: true\n")}};
}

// The spec of a file: a window as long as the context is none, and gptneox has no tied head.
ModelSpec expected_spec(ModelSpec spec, const std::string& arch) {
  for (LayerSpec& layer : spec.stacks[0].layers) layer.attention.window = 0;
  if (arch == "gptneox") spec.tied_head = false;
  return spec;
}

std::vector<float> rounded(const ModelData& model, const std::string& name, GgufType matrix,
                           GgufType table) {
  const bool copied = name == "lm_head.weight" && model.spec.tied_head;
  const WeightTensor t = model.tensor(copied ? "model.embed_tokens.weight" : name);
  if (t.shape.size() == 1) return to_floats(t);
  const bool is_table = name == "lm_head.weight" || name == "model.embed_tokens.weight";
  const GgufType type = is_table ? table : matrix;
  const auto bytes = encode_gguf(type, to_floats(t), name);
  return to_floats(weight_from_gguf(name, t.shape, type, bytes, nullptr));
}

TEST(GgufExport, EveryArchitectureComesBackRoundedOnce) {
  struct Type {
    const char* name;
    GgufType matrix, table;
  };
  const Type types[] = {{"f16", GgufType::kF16, GgufType::kF16},
                        {"q8_0", GgufType::kQ8_0, GgufType::kQ8_0},
                        {"q4_0", GgufType::kQ4_0, GgufType::kQ8_0}};
  for (const auto& [arch, spec] : plain_specs()) {
    ModelData model = test::random_model(spec, 3);
    model.stop_tokens = {5, 0, 7};
    model.name = "m";
    model.chat_template = "{{ messages }}";
    for (const Type& type : types) {
      SCOPED_TRACE(arch + " " + type.name);
      const test::TempDir dir;
      const int64_t bytes = write_gguf(model, dir / "a.gguf", gguf_file_type(type.name));
      const GgufFile file(dir / "a.gguf");
      EXPECT_EQ(file.metadata().find("general.architecture")->as_string(), arch);
      const ModelData back = import_gguf(file);
      EXPECT_EQ(back.spec, expected_spec(spec, arch));
      EXPECT_EQ(back.start_token, model.start_token);
      EXPECT_EQ(back.stop_tokens, (std::vector<int64_t>{5, 7, 0}));
      EXPECT_EQ(back.name, "m");
      EXPECT_EQ(back.chat_template, model.chat_template);
      EXPECT_LE(back.weight_bytes(), bytes);
      for (const auto& [name, source] : back.tensors) {
        EXPECT_TRUE(test::within(to_floats(source.load()),
                                 rounded(model, name, type.matrix, type.table), test::exact()))
            << name;
      }
      // Once more: codes and halves are kept, so the file is the same.
      write_gguf(back, dir / "b.gguf", gguf_file_type(type.name));
      EXPECT_EQ(read_file(dir / "b.gguf"), read_file(dir / "a.gguf"));
    }
  }
}

class GgufRefusal : public ::testing::Test {
 protected:
  void refuses(const ModelData& model, const std::string& type,
               const std::vector<std::string>& fragments, ErrorCode code = ErrorCode::kRequest) {
    test::expect_error(code, fragments,
                       [&] { write_gguf(model, dir_ / "m.gguf", gguf_file_type(type)); });
    EXPECT_TRUE(fs::is_empty(dir_.path()));
  }
  void refuses_spec(const ModelSpec& spec, const std::string& fragment) {
    refuses(test::random_model(spec, 1), "f16", {"GGUF cannot hold this model: ", fragment});
  }
  test::TempDir dir_;
};

TEST_F(GgufRefusal, WhatTheFormatCannotSay) {
  const auto variant = [](const std::string& attention, const std::string& decoder = "",
                          const std::string& ffn = kSwiGlu, const std::string& model = "") {
    return test::decoder_variant(attention, decoder, ffn, model);
  };
  refuses_spec(test::small_block(), "Block Transformer");
  refuses_spec(test::small_decoder("cla2"), "layer 1 shares the K/V of layer 0");
  refuses_spec(test::small_latent(), "latent attention");
  refuses_spec(variant(kHeads + ", window: 20"), "no sliding window");
  refuses_spec(variant(kHeads + ", sinks: true"), "attention sinks");
  refuses_spec(variant(kHeads + ", kv_norm: separate"), "a norm of its own for K and V");
  refuses_spec(variant(kHeads + ", rope_dim: 0"), "without RoPE");
  refuses_spec(variant(kHeads, "", kSwiGlu, "logit_softcap: 3\n"), "logit_softcap");
  refuses_spec(variant(kHeads, ", overrides: [{layers: [2], ffn: {d_ff: 32}}]"),
               "layer 2 differs from layer 0");
  refuses_spec(variant(kHeads, "", "kind: relu2, d_ff: 64"), "only SwiGLU");
  refuses_spec(variant(kHeads, ", residual: parallel"), "parallel residual");
  refuses_spec(variant(kHeads + ", qk_norm: true, bias: qkv"), "QK-norm together with biases");
  refuses_spec(variant(kHeads, ", norm: {kind: layernorm}"), "only GPT-NeoX's form");
  ModelData online = test::random_model(variant(kHeads), 1);
  online.rotation.stacks.resize(1);
  online.rotation.stacks[0].down = true;
  refuses(online, "f16", {"online rotations"});
  ModelData stops = test::random_model(variant(kHeads), 1);
  stops.stop_tokens = {1, 2, 3, 4};
  refuses(stops, "f16", {"4 stop tokens"});
}

TEST_F(GgufRefusal, WhatCannotBeRounded) {
  refuses(test::random_model(test::small_decoder(), 1), "q8_0",
          {"'model.layers.0.mlp.down_proj.weight': rows of 24", "use --type f16"});
  const ModelSpec spec = test::decoder_variant(kHeads, "", kSwiGlu);
  ModelData model = test::random_model(spec, 1);
  write_gguf(model, dir_ / "q8.gguf", GgufFileType::kQ8_0);
  const ModelData codes = import_gguf(dir_ / "q8.gguf");
  const std::string kept = read_file(dir_ / "q8.gguf");
  test::expect_error(ErrorCode::kRequest, {"q8.gguf: exists already"},
                     [&] { write_gguf(model, dir_ / "q8.gguf", GgufFileType::kF16); });
  EXPECT_EQ(read_file(dir_ / "q8.gguf"), kept);
  const test::TempDir other;
  test::expect_error(ErrorCode::kRequest,
                     {"8 bits in groups of 32", "rounded a second time", "--type f16"},
                     [&] { write_gguf(codes, other / "q4.gguf", GgufFileType::kQ4_0); });
  write_gguf(codes, other / "f16.gguf", GgufFileType::kF16);
  fs::remove(dir_ / "q8.gguf");
  const std::string name = "model.layers.3.mlp.down_proj.weight";
  model.tensors[name] = make_dense(name, {32, 64}, std::vector<float>(32 * 64, 1e5f));
  refuses(model, "f16", {name, "beyond what 16 bits hold"}, ErrorCode::kData);
  test::expect_error(ErrorCode::kRequest, {"'q5_k'", "f16, q8_0 or q4_0"},
                     [] { gguf_file_type("q5_k"); });
}

}  // namespace
}  // namespace ashlar

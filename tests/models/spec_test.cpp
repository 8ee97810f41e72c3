#include "models/spec/spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>

#include "core/config/config.h"
#include "core/io/json.h"
#include "models/spec/parameters.h"
#include "models/spec/rope.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

ModelSpec parse(const std::string& text) {
  return model_spec_from_config(parse_yaml(text, "m.yaml"));
}

std::string decoder(const std::string& sharing, int layers = 4, const std::string& extra = "") {
  return fmt::format(
      "kind: decoder\nvocab_size: 512\ndecoder:\n  d_model: 64\n  layers: {}\n"
      "  attention: {{heads: 8, kv_heads: 2, head_dim: 8}}\n  kv_sharing: {}\n"
      "  ffn: {{kind: swiglu, d_ff: 96}}\n{}",
      layers, sharing, extra);
}

std::vector<int64_t> owners(const std::string& sharing, int layers) {
  std::vector<int64_t> out;
  for (const LayerSpec& l : parse(decoder(sharing, layers)).stacks[0].layers)
    out.push_back(l.kv_owner);
  return out;
}

const char* kBlock =
    "kind: block_transformer\nvocab_size: 512\n"
    "block: {length: 4, embedder: lookup, context: prefix, prefix_length: 2, pad: none, "
    "first_block: eos}\n"
    "global: {d_model: 64, layers: 4, attention: {heads: 4, kv_heads: 2, head_dim: 16},\n"
    "  kv_sharing: cla2, ffn: {d_ff: 96}}\n"
    "local: {d_model: 32, layers: 2, attention: {heads: 2, head_dim: 16}, ffn: {d_ff: 48}}\n";

TEST(KvSharing, PatternsEqualThePapersDrawings) {
  EXPECT_EQ(owners("none", 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(owners("cla2", 4), (std::vector<int64_t>{0, 0, 2, 2}));
  // The 10-layer CLA3 drawing leaves layer 0 alone.
  EXPECT_EQ(owners("cla3", 10), (std::vector<int64_t>{0, 1, 1, 1, 4, 4, 4, 7, 7, 7}));
  EXPECT_EQ(owners("keep_ends", 6), (std::vector<int64_t>{0, 1, 1, 3, 3, 5}));
  EXPECT_EQ(owners("yoco", 4), (std::vector<int64_t>{0, 1, 2, 2}));
  EXPECT_EQ(owners("[0, 0, 2, 0]", 4), (std::vector<int64_t>{0, 0, 2, 0}));
  // 20 layers with 11 KV layers each: KeepEnds, DenseFront, DenseBack of arXiv 2405.12981.
  for (const char* name : {"keep_ends", "dense_front", "dense_back"}) {
    EXPECT_EQ(kv_groups(parse(decoder(name, 20))).size(), 11u) << name;
  }
  const auto front = owners("dense_front", 20);
  EXPECT_EQ(front[9], 9);
  EXPECT_EQ(front[18], 9);
  EXPECT_EQ(front[19], 19);
  const auto back = owners("dense_back", 20);
  EXPECT_EQ(back[1], 1);
  EXPECT_EQ(back[10], 1);
  EXPECT_EQ(back[11], 11);
}

TEST(KvSharing, ImpossiblePatternsNameKeyAndReason) {
  const auto refuses = [](const std::string& sharing, const std::string& reason) {
    test::expect_error(ErrorCode::kRequest, {"m.yaml:7: model.decoder.kv_sharing", reason},
                       [&] { parse(decoder(sharing)); });
  };
  refuses("cla9", "groups of 9 in 4 layers");
  refuses("cla0", "is not one of");
  refuses("clax", "is not one of");
  refuses("[0, 0]", "2 entries for 4 layers");
  refuses("[0, 2, 2, 2]", "runs later");
  refuses("[0, 0, 1, 0]", "owns no K/V");
}

TEST(Spec, GroupsOfABlockTransformer) {
  const ModelSpec spec = parse(kBlock);
  const auto groups = kv_groups(spec);
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].readers, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(groups[0].entry_tokens, 4);
  EXPECT_EQ(groups[0].lifetime, KvLifetime::kSequence);
  EXPECT_EQ(groups[2].stack, 1);
  EXPECT_EQ(groups[2].lifetime, KvLifetime::kBlock);
  EXPECT_EQ(group_of_layer(spec, 0), (std::vector<int64_t>{0, 0, 1, 1}));
  EXPECT_EQ(group_of_layer(spec, 1), (std::vector<int64_t>{2, 3}));
  // 2 groups × 2 heads × (16 + 16) elements × 2 bytes / 4 tokens.
  EXPECT_EQ(kv_bytes_per_token(spec, 2), 64.0);
}

TEST(Spec, ResolvedFormRoundTripsThroughJson) {
  for (const std::string& text :
       {decoder("cla2"), std::string(kBlock), decoder("none", 2, "tied_head: true\n")}) {
    const ModelSpec spec = parse(text);
    EXPECT_EQ(model_spec_from_resolved(parse_json(write_json(to_node(spec)), "x")), spec);
  }
}

// One model with everything that is not a default.
const char* kEverything =
    "kind: block_transformer\nvocab_size: 512\nlogit_softcap: 30.0\n"
    "block: {length: 4, embedder: encoder, cls_tokens: 2, context: cross_attention, pad: random}\n"
    "encoder: {d_model: 24, layers: 2, attention: {heads: 2, head_dim: 12}, ffn: {d_ff: 40}}\n"
    "global: {d_model: 64, layers: 3, norm: {kind: layernorm}, residual: parallel,\n"
    "  attention: {heads: 4, kv_heads: 2, head_dim: 16, rope_dim: 4, window: 8, qk_norm: true,\n"
    "    sinks: true, bias: qkv, rope_scaling: {kind: yarn, factor: 4, original_context: 64}},\n"
    "  ffn: {kind: gelu, d_ff: 96, bias: true},\n"
    "  overrides: [{layers: [1], attention: {window: 0}}, {layers: [2], attention: {kind: mla,\n"
    "    latent_dim: 24, rope_dim: 8, value_dim: 12, query_latent_dim: 20, bias: none,\n"
    "    qk_norm: false, window: 0}, residual: sequential, ffn: {kind: relu2}}]}\n"
    "local: {d_model: 32, layers: 2, attention: {heads: 2, head_dim: 16}, ffn: {d_ff: 48}}\n";

TEST(Spec, EveryVariantIsReadAndRoundTrips) {
  const ModelSpec spec = parse(kEverything);
  EXPECT_EQ(model_spec_from_resolved(parse_json(write_json(to_node(spec)), "x")), spec);
  const LayerSpec& l = spec.stacks[0].layers[0];
  EXPECT_EQ(l.norm, (NormSpec{NormKind::kLayerNorm, 1e-5, true}));
  EXPECT_EQ(l.residual, ResidualKind::kParallel);
  EXPECT_EQ(l.attention.rope.dim, 4);
  EXPECT_EQ(l.attention.rope.scaling.kind, RopeScalingKind::kYarn);
  EXPECT_EQ(l.attention.window, 8);
  EXPECT_EQ(spec.stacks[0].layers[1].attention.window, 0);
  const LayerSpec& encoder = spec.stacks[2].layers[0];
  EXPECT_EQ(encoder.residual, ResidualKind::kPost);
  EXPECT_EQ(encoder.attention.rope.dim, 0);
  EXPECT_EQ(encoder.attention.bias, BiasKind::kAll);
  const auto groups = kv_groups(spec);
  ASSERT_EQ(groups.size(), 7u);  // 3 global, 2 local, 2 cross
  EXPECT_EQ(groups[2].kind, KvKind::kLatent);
  EXPECT_EQ(groups[2].heads, 1);
  EXPECT_EQ(groups[2].key_dim, 32);
  EXPECT_EQ(groups[2].entry_width(), 32);
  EXPECT_EQ(groups[5].kind, KvKind::kCross);
  EXPECT_EQ(group_of_layer(spec, 1, KvKind::kCross), (std::vector<int64_t>{5, 6}));
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const ParameterSpec& p : parameters(spec))
    EXPECT_TRUE(shapes.emplace(p.name, p.shape).second);
  EXPECT_EQ(shapes.at("global.embed_projection.weight"), (std::vector<int64_t>{64, 48}));
  EXPECT_EQ(shapes.at("encoder.embed_positions.weight"), (std::vector<int64_t>{6, 24}));
  EXPECT_EQ(shapes.at("global.layers.2.self_attn.q_proj.weight"), (std::vector<int64_t>{96, 20}));
  EXPECT_EQ(shapes.at("global.layers.2.self_attn.kv_a_proj_with_mqa.weight"),
            (std::vector<int64_t>{32, 64}));
  EXPECT_EQ(shapes.at("global.layers.2.self_attn.o_proj.weight"), (std::vector<int64_t>{64, 48}));
  EXPECT_EQ(shapes.at("global.expansion.weight"), (std::vector<int64_t>{128, 64}));
  EXPECT_TRUE(shapes.contains("global.layers.0.self_attn.k_proj.bias"));
  EXPECT_FALSE(shapes.contains("global.layers.0.self_attn.o_proj.bias"));
  EXPECT_FALSE(shapes.contains("global.layers.2.mlp.gate_proj.weight"));
  EXPECT_TRUE(shapes.contains("local.layers.1.cross_attn.k_proj.weight"));
}

// Values of transformers' modeling_rope_utils for the same settings (head_dim 8, theta 10000,
// factor 8, original context 128), computed by hand from the formulas.
TEST(Rope, ScalingsEqualTheirDefinitions) {
  RopeSpec rope{8, 10000.0, {}};
  EXPECT_EQ(rope_frequencies(rope).frequency, (std::vector<double>{1, 0.1, 0.01, 0.001}));
  rope.scaling = {RopeScalingKind::kLinear, 8, 0, 1, 4, 32, 1};
  EXPECT_EQ(rope_frequencies(rope).frequency[1], 0.1 / 8);
  // Turns within 128 tokens: 20.4, 2.04, 0.204, 0.0204; kept above 4, divided below 1.
  rope.scaling = {RopeScalingKind::kLlama3, 8, 128, 1, 4, 32, 1};
  const auto llama = rope_frequencies(rope).frequency;
  EXPECT_EQ(llama[0], 1.0);
  const double keep = (12.8 / (2 * std::numbers::pi) - 1) / 3;
  EXPECT_NEAR(llama[1], (1 - keep) * 0.1 / 8 + keep * 0.1, test::reordered<double>(8, 1).absolute);
  EXPECT_EQ(llama[2], 0.01 / 8);
  // Dimensions at 4 and 1 turns: 8·ln(128/8π)/(2·ln 10⁴) = 0.707 → 0, ·(1): 1.309 → 2.
  rope.scaling = {RopeScalingKind::kYarn, 8, 128, 1, 4, 4, 1};
  const auto yarn = rope_frequencies(rope);
  EXPECT_EQ(yarn.frequency[0], 1.0);
  EXPECT_NEAR(yarn.frequency[1], 0.1 * (0.5 / 8 + 0.5), test::reordered<double>(8, 1).absolute);
  EXPECT_NEAR(yarn.frequency[2], 0.01 / 8, test::reordered<double>(8, 1).absolute);
  EXPECT_NEAR(yarn.magnitude, 0.1 * std::log(8.0) + 1, test::reordered<double>(8, 1).absolute);
}

TEST(Spec, ImpossibleVariantsNameTheReason) {
  const auto refuses = [](const std::string& from, const std::string& to,
                          const std::vector<std::string>& fragments) {
    std::string text = kEverything;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    test::expect_error(ErrorCode::kRequest, fragments, [&] { parse(text); });
  };
  refuses("overrides: [{layers: [1], attention: {window: 0}}",
          "kv_sharing: [0, 0, 2], overrides: [{layers: [1], attention: {window: 0}}",
          {"global layer 1 (window 0) shares K/V with layer 0 (window 8)", "never share"});
  refuses("window: 8,", "window: 8, kv_heads: 3,", {"kv_heads", "duplicate"});
  refuses("rope_dim: 4,", "rope_dim: 18,",
          {"m.yaml:7: model.global.attention: rope_dim = 18 exceeds head_dim = 16"});
  refuses("rope_dim: 4,", "rope_dim: 3,", {"rope_dim: 3 is odd"});
  refuses("bias: none,", "bias: all,", {"latent attention has no biases"});
  refuses("residual: parallel", "residual: post", {"'post' is for the block encoder"});
  refuses("embedder: encoder, cls_tokens: 2", "embedder: lookup", {"model.encoder: unknown key"});
  refuses("cls_tokens: 2", "prefix_length: 2", {"block.prefix_length: unknown key"});
  refuses("attention: {heads: 2, head_dim: 12}", "attention: {heads: 2, head_dim: 12, rope_dim: 4}",
          {"encoder layer 0", "learned positions"});
  refuses("logit_softcap: 30.0\n", "context_length: 3\n",
          {"context_length = 3 is not a multiple of block.length = 4"});
}

TEST(Spec, ConsumersOwnNoKvParameters) {
  const ModelSpec spec = parse(decoder("cla2"));
  int64_t keys = 0, total = 0;
  for (const ParameterSpec& p : parameters(spec)) {
    keys += p.role == ParameterRole::kKey;
    total += p.numel();
    EXPECT_EQ(p.name.find("layers.1.self_attn.k_proj"), std::string::npos);
  }
  EXPECT_EQ(keys, 2);
  EXPECT_EQ(total, parameter_count(spec));
}

// Bodies of reference tables of arXiv 2405.12981 (1B: d 2048, FFN 5472, 20 layers).
TEST(Spec, ParameterCountsAndKvBytesEqualThePaper) {
  struct Row {
    const char* name;
    int head_dim, heads, kv_heads;
    const char* sharing;
    int64_t body;
    int64_t kv_bytes;
  };
  const Row rows[] = {{"H128-MHA", 128, 16, 16, "none", 1007943680, 163840},
                      {"H128-GQA4", 128, 16, 4, "none", 882114560, 40960},
                      {"H128-GQA2", 128, 16, 2, "none", 861143040, 20480},
                      {"H128-MQA", 128, 16, 1, "none", 850657280, 10240},
                      {"H64-MQA", 64, 32, 1, "none", 845414400, 5120},
                      {"H46-MQA", 46, 45, 1, "none", 845742080, 3680},
                      {"H128-MQA-CLA2", 128, 16, 1, "cla2", 845414400, 5120},
                      {"H90-MQA-CLA2", 90, 22, 1, "cla2", 838287360, 3600},
                      {"H128-MQA-CLA3", 128, 16, 1, "cla3", 843841536, 3584},
                      {"H128-MQA-CLA4", 128, 16, 1, "cla4", 842792960, 2560},
                      {"H128-MQA-CLA2-KeepEnds", 128, 16, 1, "keep_ends", 845938688, 5632},
                      {"H128-MQA-CLA2-DenseFront", 128, 16, 1, "dense_front", 845938688, 5632},
                      {"H128-MQA-CLA2-DenseBack", 128, 16, 1, "dense_back", 845938688, 5632}};
  for (const Row& row : rows) {
    const ModelSpec spec = parse(fmt::format(
        "kind: decoder\nvocab_size: 50432\ndecoder: {{d_model: 2048, layers: 20, kv_sharing: {}, "
        "attention: {{heads: {}, kv_heads: {}, head_dim: {}}}, ffn: {{d_ff: 5472}}}}\n",
        row.sharing, row.heads, row.kv_heads, row.head_dim));
    EXPECT_EQ(body_parameter_count(spec), row.body) << row.name;
    EXPECT_EQ(kv_bytes_per_token(spec, 2), static_cast<double>(row.kv_bytes)) << row.name;
  }
}

TEST(Spec, MistakesNameKeyAndReason) {
  const auto refuses = [](const std::string& text, const std::vector<std::string>& fragments) {
    test::expect_error(ErrorCode::kRequest, fragments, [&] { parse(text); });
  };
  refuses(decoder("none", 4, "depth: 3\n"), {"m.yaml:9: model.depth: unknown key"});
  refuses("kind: rnn\nvocab_size: 5\n", {"m.yaml:1: model.kind", "'rnn' is not one of"});
  refuses(
      "kind: decoder\nvocab_size: 512\ndecoder: {d_model: 64, layers: 1, ffn: {d_ff: 8},\n"
      " attention: {heads: 3, kv_heads: 2, head_dim: 8}}\n",
      {"kv_heads", "2 does not divide heads = 3"});
  refuses(
      "kind: decoder\nvocab_size: 512\ndecoder: {d_model: 64, layers: 1, ffn: {d_ff: 8},\n"
      " attention: {heads: 3, head_dim: 7}}\n",
      {"head_dim", "7 is odd"});
  std::string bad = kBlock;
  bad.replace(bad.find("length: 4"), 9, "length: 3");
  refuses(bad, {"not a multiple of block.length = 3"});
  refuses(decoder("cla2", 4, "  overrides: [{layers: [1], attention: {kv_heads: 4}}]\n"),
          {"layer 1 shares K/V with layer 0 but differs"});
}

TEST(Spec, UntrustedResolvedFormsAreChecked) {
  Node node = to_node(parse(decoder("cla2")));
  node.find("stacks")->as_list()[0].find("layers")->as_list()[1].set("kv_owner", 3);
  test::expect_error(ErrorCode::kRequest, {"reads K/V of layer 3"},
                     [&] { model_spec_from_resolved(node); });
  node = to_node(parse(decoder("none")));
  node.set("vocab_size", int64_t{1} << 40);
  test::expect_error(ErrorCode::kRequest, {"vocab_size"}, [&] { model_spec_from_resolved(node); });
}

}  // namespace
}  // namespace ashlar

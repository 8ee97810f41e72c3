#include "models/spec/spec.h"

#include <gtest/gtest.h>

#include "core/config/config.h"
#include "core/io/json.h"
#include "models/spec/parameters.h"
#include "tests/support/files.h"

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

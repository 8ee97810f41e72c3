#include "export/adapt.h"

#include <gtest/gtest.h>

#include "tests/reference/forward.h"
#include "tests/support/files.h"
#include "tests/support/logit_bound.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

std::string decoder_text(const std::string& sharing, const std::string& attention = "",
                         const std::string& stack = "", int kv_heads = 2) {
  return fmt::format(
      "kind: decoder\nvocab_size: 41\ncontext_length: 64\ndecoder: {{d_model: 24, layers: 4, "
      "kv_sharing: {}, attention: {{heads: 4, kv_heads: {}, head_dim: 6{}}}, ffn: {{d_ff: "
      "20}}{}}}\n",
      sharing, kv_heads, attention, stack);
}

ModelSpec decoder(const std::string& sharing, const std::string& attention = "",
                  const std::string& stack = "", int kv_heads = 2) {
  return test::spec_from_yaml(decoder_text(sharing, attention, stack, kv_heads));
}

std::vector<float> tensor(const ModelData& m, const std::string& name) {
  return to_floats(m.tensor(name));
}

std::vector<float> logits(const ModelData& m) {
  test::Weights<double> weights;
  for (const auto& [name, t] : m.tensors) {
    const auto values = to_floats(t.load());
    weights[name].assign(values.begin(), values.end());
  }
  std::vector<float> out;
  const auto tokens = test::random_tokens(9, m.spec.vocab_size, 3);
  for (const auto& row : test::ReferenceModel<double>(m.spec, weights).logits(tokens, 0)) {
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

TEST(Adapt, TheSameArchitectureKeepsEveryBit) {
  for (const std::string sharing : {"none", "cla2"}) {
    const ModelData source = test::random_model(decoder(sharing), 4);
    const ModelData same = adapt_model(source, source.spec);
    for (const auto& [name, t] : source.tensors)
      EXPECT_EQ(tensor(same, name), tensor(source, name));
  }
}

// Giving K/V a norm of their own, or taking it away, only moves gains and biases: the function
// stays.
TEST(Adapt, FoldingChangesNoLogit) {
  const std::string biased = ", bias: qkv", layer_norm = ", norm: {kind: layernorm}";
  for (const auto& [from, to, attention, stack] :
       {std::tuple<std::string, std::string, std::string, std::string>{"", ", kv_norm: separate",
                                                                       ", qk_norm: true", ""},
        {"", ", kv_norm: separate", biased, layer_norm},
        {"", ", kv_norm: separate", "", ""}}) {
    const ModelSpec plain = decoder("none", attention + from, stack);
    const ModelSpec separate = decoder("none", attention + to, stack);
    const ModelData a = test::random_model(plain, 5), b = adapt_model(a, separate);
    EXPECT_TRUE(test::within(logits(b), logits(a), test::logit_bound(plain, logits(a), 8)));
    for (float g : tensor(b, "model.layers.1.self_attn.kv_layernorm.weight")) EXPECT_EQ(g, 1.0f);
    // Two norms of one layer cannot become one: W_q and W_k would need the same gain, so both fold.
    const ModelData back = adapt_model(test::random_model(separate, 6), plain);
    EXPECT_TRUE(test::within(logits(back), logits(test::random_model(separate, 6)),
                             test::logit_bound(plain, logits(back), 8)));
  }
}

TEST(Adapt, SharedKvAreMeansOfFoldedWeights) {
  const ModelData source = test::random_model(decoder("none"), 7);
  const auto folded = [&](int layer, const std::string& which) {
    auto w = tensor(source, fmt::format("model.layers.{}.self_attn.{}_proj.weight", layer, which));
    const auto g = tensor(source, fmt::format("model.layers.{}.input_layernorm.weight", layer));
    for (size_t i = 0; i < w.size(); ++i) w[i] *= g[i % g.size()];
    return w;
  };
  for (const bool mean : {true, false}) {
    AdaptOptions options;
    options.kv = mean ? KvPooling::kMean : KvPooling::kFirst;
    const ModelData shared = adapt_model(source, decoder("cla2", ", kv_norm: separate"), options);
    const ModelData joint = adapt_model(source, decoder("cla2"), options);
    for (const std::string which : {"k", "v"}) {
      const auto a = folded(2, which), b = folded(3, which);
      std::vector<float> want;
      for (size_t i = 0; i < a.size(); ++i) want.push_back(mean ? (a[i] + b[i]) / 2 : a[i]);
      const std::string name = "model.layers.2.self_attn." + which + "_proj.weight";
      const test::Bound bound = test::reordered<float>(2, 16);
      EXPECT_TRUE(test::within(tensor(shared, name), want, bound));
      if (mean) {
        EXPECT_TRUE(test::within(tensor(joint, name), want, bound));
      } else {
        EXPECT_EQ(tensor(joint, name), tensor(source, name));  // nothing to pool: nothing to fold
      }
    }
    if (mean) {
      EXPECT_TRUE(test::within(tensor(joint, "model.layers.2.self_attn.q_proj.weight"),
                               folded(2, "q"), test::reordered<float>(2, 16)));
      for (float g : tensor(joint, "model.layers.2.input_layernorm.weight")) EXPECT_EQ(g, 1.0f);
    }
    // Readers and everything else stay as they are.
    for (const std::string name :
         {"model.layers.3.input_layernorm.weight", "model.layers.3.self_attn.q_proj.weight",
          "model.layers.2.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"}) {
      EXPECT_EQ(tensor(shared, name), tensor(source, name)) << name;
      EXPECT_EQ(tensor(joint, name), tensor(source, name)) << name;
    }
  }
  // MQA: the mean of the two KV heads as well.
  const ModelData mqa = adapt_model(source, decoder("none", ", kv_norm: separate", "", 1));
  const auto both = folded(1, "v");
  std::vector<float> want;
  for (size_t i = 0; i < both.size() / 2; ++i) {
    want.push_back((both[i] + both[i + both.size() / 2]) / 2);
  }
  EXPECT_TRUE(test::within(tensor(mqa, "model.layers.1.self_attn.v_proj.weight"), want,
                           test::reordered<float>(2, 16)));
}

std::string blocks(int below, int above,
                   const std::string& block = "embedder: projection, length: 4") {
  const std::string body = "attention: {heads: 4, kv_heads: 2, head_dim: 6}, ffn: {d_ff: 20}";
  return fmt::format(
      "kind: block_transformer\nvocab_size: 41\ncontext_length: 64\nblock: {{{}}}\n"
      "global: {{d_model: 24, layers: {}, {}}}\nlocal: {{d_model: 24, layers: {}, {}}}\n",
      block, below, body, above, body);
}

TEST(Adapt, ADecoderBecomesABlockTransformer) {
  const ModelData source = test::random_model(decoder("none"), 8);
  const auto layer_of = [&](const ModelData& m, const std::string& stack, int layer) {
    const auto own = tensor(m, fmt::format("{}.layers.{}.self_attn.q_proj.weight", stack, layer));
    for (int l = 0; l < 4; ++l) {
      if (own == tensor(source, fmt::format("model.layers.{}.self_attn.q_proj.weight", l)))
        return l;
    }
    return -1;
  };
  AdaptOptions options;
  const ModelData parted = adapt_model(source, test::spec_from_yaml(blocks(1, 3)), options);
  EXPECT_EQ(layer_of(parted, "global", 0), 0);
  EXPECT_EQ(layer_of(parted, "local", 0), 1);
  EXPECT_EQ(layer_of(parted, "local", 2), 3);
  options.split = LayerSplit::kSkip;
  const ModelData skipped = adapt_model(source, test::spec_from_yaml(blocks(2, 2)), options);
  EXPECT_EQ(layer_of(skipped, "global", 1), 2);
  EXPECT_EQ(layer_of(skipped, "local", 1), 2);
  options.split = LayerSplit::kDuplicate;
  const ModelData doubled = adapt_model(source, test::spec_from_yaml(blocks(4, 4)), options);
  EXPECT_EQ(layer_of(doubled, "global", 3), 3);
  EXPECT_EQ(layer_of(doubled, "local", 1), 1);

  // The block's vector is the mean of its tokens' vectors, exactly; each context row is the state.
  const auto table = tensor(parted, "global.embed_tokens.weight");
  EXPECT_EQ(table, tensor(source, "model.embed_tokens.weight"));
  const auto projection = tensor(parted, "global.embed_projection.weight");
  const int tokens[] = {5, 40, 0, 7};
  for (size_t i = 0; i < 24; ++i) {
    double vector = 0, mean = 0;
    for (size_t s = 0; s < 4; ++s) {
      const auto row = static_cast<size_t>(tokens[s]) * 24;
      for (size_t e = 0; e < 24; ++e) {
        vector += static_cast<double>(projection[i * 96 + s * 24 + e]) * table[row + e];
      }
      mean += static_cast<double>(table[row + i]) / 4;
    }
    EXPECT_EQ(vector, mean);
  }
  const auto expansion = tensor(parted, "global.expansion.weight");
  ASSERT_EQ(expansion.size(), 2u * 24 * 24);
  for (size_t r = 0; r < 48; ++r) {
    for (size_t c = 0; c < 24; ++c) EXPECT_EQ(expansion[r * 24 + c], r % 24 == c ? 1.0f : 0.0f);
  }
  for (float b : tensor(parted, "global.expansion.bias")) EXPECT_EQ(b, 0.0f);
  for (float g : tensor(parted, "global.norm.weight")) EXPECT_EQ(g, 1.0f);
  EXPECT_EQ(tensor(parted, "local.norm.weight"), tensor(source, "model.norm.weight"));
  EXPECT_EQ(tensor(parted, "lm_head.weight"), tensor(source, "lm_head.weight"));
  EXPECT_EQ(tensor(parted, "local.embed_tokens.weight"), table);
}

TEST(Adapt, WhatDoesNotFitIsRefusedByName) {
  const ModelData source = test::random_model(decoder("none"), 9);
  const auto refuses = [&](const std::string& yaml, const std::vector<std::string>& fragments,
                           const AdaptOptions& options = {}) {
    test::expect_error(ErrorCode::kRequest, fragments,
                       [&] { adapt_model(source, test::spec_from_yaml(yaml), options); });
  };
  refuses(blocks(2, 3), {"4 layers do not split into 2 + 3"});
  refuses(blocks(2, 1), {"do not split"}, {KvPooling::kMean, LayerSplit::kSkip});
  refuses(blocks(2, 2, "length: 4"), {"block.embedder: projection", "embedding_dim 24"});
  refuses(blocks(2, 2, "embedder: projection, length: 4, context: cross_attention"),
          {"no weights for block.context"});
  refuses(decoder_text("none", "", "", 4), {"2 KV heads do not pool into 4"});
  refuses(decoder_text("none", ", qk_norm: true"), {"q_norm.weight", "nothing to come from"});
  refuses(
      "kind: decoder\nvocab_size: 40\ndecoder: {d_model: 24, layers: 4, attention: {heads: 4, "
      "head_dim: 6}, ffn: {d_ff: 20}}\n",
      {"vocab_size: the model has 41, the configuration 40"});
  const ModelData shifted = test::random_model(decoder("none", "", ", norm: {kind: layernorm}"), 9);
  test::expect_error(ErrorCode::kRequest, {"cannot be folded without attention.bias"}, [&] {
    adapt_model(shifted, decoder("cla2", "", ", norm: {kind: layernorm}"));
  });
}

}  // namespace
}  // namespace ashlar

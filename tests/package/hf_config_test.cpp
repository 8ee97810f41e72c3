#include "package/import/hf_config.h"

#include <gtest/gtest.h>

#include "core/io/json.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

HfConfig read(const std::string& text) { return read_hf_config(parse_json(text, "config.json")); }

/// A config of a small model; `more` begins with a comma.
std::string config(const std::string& type, const std::string& more = "") {
  return R"({"model_type": ")" + type +
         R"(", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64)" +
         more + "}";
}

AttentionSpec attention(const HfConfig& config, size_t layer = 0) {
  return config.spec.stacks[0].layers[layer].attention;
}

std::vector<int64_t> windows(const HfConfig& config) {
  std::vector<int64_t> out;
  for (const LayerSpec& layer : config.spec.stacks[0].layers) out.push_back(layer.attention.window);
  return out;
}

TEST(HfConfig, BothSpellingsOfRopeMeanTheSame) {
  const std::string llama3 = R"("rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192)";
  const HfConfig old = read(config(
      "llama",
      R"(, "torch_dtype": "bfloat16", "rope_theta": 500000.0, "rope_scaling": {)" + llama3 + "}"));
  const HfConfig now = read(config(
      "llama",
      R"(, "dtype": "bfloat16", "rope_parameters": {"rope_theta": 500000.0, )" + llama3 + "}"));
  EXPECT_EQ(old.spec, now.spec);
  EXPECT_EQ(attention(old).rope.theta, 500000);
  EXPECT_EQ(attention(old).rope.scaling.kind, RopeScalingKind::kLlama3);
  EXPECT_EQ(attention(old).rope.scaling.original_context, 8192);
  const HfConfig oldest =
      read(config("llama", R"(, "rope_scaling": {"type": "linear", "factor": 2.0})"));
  EXPECT_EQ(attention(oldest).rope.scaling.kind, RopeScalingKind::kLinear);
  const HfConfig neox_old =
      read(config("gpt_neox", R"(, "rotary_pct": 0.5, "rotary_emb_base": 20000)"));
  const HfConfig neox_now = read(config(
      "gpt_neox", R"(, "rope_parameters": {"rope_theta": 20000.0, "partial_rotary_factor": 0.5,
                       "rope_type": "default"})"));
  EXPECT_EQ(neox_old.spec, neox_now.spec);
  EXPECT_EQ(attention(neox_old).rope.dim, 4);
  EXPECT_EQ(attention(neox_old).rope.theta, 20000);
}

TEST(HfConfig, LeftOutKeysHaveTheLibrarysValues) {
  const HfConfig llama = read(config("llama", R"(, "rope_scaling": null, "head_dim": null)"));
  EXPECT_EQ(attention(llama).head_dim, 8);
  EXPECT_EQ(attention(llama).kv_heads, 4);
  EXPECT_EQ(attention(llama).rope.theta, 10000);
  EXPECT_EQ(attention(llama).bias, BiasKind::kNone);
  EXPECT_EQ(llama.spec.stacks[0].layers[0].norm.eps, 1e-6);
  EXPECT_FALSE(llama.spec.tied_head);
  EXPECT_EQ(attention(read(config("qwen2"))).bias, BiasKind::kQkv);
  const HfConfig qwen3 = read(config("qwen3", R"(, "num_key_value_heads": 2)"));
  EXPECT_EQ(attention(qwen3).head_dim, 128);
  EXPECT_TRUE(attention(qwen3).qk_norm);
  const HfConfig neox = read(config("gpt_neox"));
  EXPECT_EQ(attention(neox).rope.dim, 2);
  EXPECT_EQ(attention(neox).bias, BiasKind::kAll);
  EXPECT_EQ(neox.spec.stacks[0].layers[0].residual, ResidualKind::kParallel);
  EXPECT_EQ(neox.spec.stacks[0].layers[0].ffn.kind, FfnKind::kGelu);
  EXPECT_TRUE(neox.spec.stacks[0].layers[0].ffn.bias);
}

TEST(HfConfig, WindowsOfEveryFamily) {
  using Windows = std::vector<int64_t>;
  const std::string kv = R"(, "num_key_value_heads": 2)";
  EXPECT_EQ(windows(read(config("mistral", kv))), (Windows{4096, 4096, 4096}));
  EXPECT_EQ(windows(read(config("mistral", kv + R"(, "sliding_window": null)"))),
            (Windows{0, 0, 0}));
  EXPECT_EQ(windows(read(config("mistral", kv + R"(, "sliding_window": 7)"))), (Windows{7, 7, 7}));
  const std::string qwen = R"(, "sliding_window": 7, "max_window_layers": 1)";
  EXPECT_EQ(windows(read(config("qwen2", qwen))), (Windows{0, 0, 0}));
  EXPECT_EQ(windows(read(config("qwen2", qwen + R"(, "use_sliding_window": true)"))),
            (Windows{0, 7, 7}));
  EXPECT_EQ(windows(read(config("qwen3", qwen + R"(, "use_sliding_window": true, "layer_types":
      ["sliding_attention", "full_attention", "sliding_attention"])"))),
            (Windows{7, 0, 7}));
}

TEST(HfConfig, StopTokensAndName) {
  const HfConfig several =
      read(config("llama", R"(, "eos_token_id": [3, 4], "_name_or_path": "org/name")"));
  EXPECT_EQ(several.stop_tokens, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(several.name, "org/name");
  EXPECT_EQ(read(config("llama", R"(, "eos_token_id": 3)")).stop_tokens, (std::vector<int64_t>{3}));
  EXPECT_TRUE(read(config("llama", R"(, "eos_token_id": null)")).stop_tokens.empty());
}

struct Refusal {
  const char* type;
  std::string more;
  std::vector<std::string> fragments;
};

TEST(HfConfig, WhatIsNotSupportedIsRefusedByItsKey) {
  const Refusal refusals[] = {
      {"mixtral", "", {"model_type", "'mixtral' is not supported", "llama, mistral, qwen2"}},
      {"llama", R"(, "architectures": ["LlamaForSequenceClassification"])", {"architectures"}},
      {"llama", R"(, "quantization_config": {"bits": 4})", {"quantization_config"}},
      {"qwen3", R"(, "num_experts": 8)", {"num_experts"}},
      {"llama", R"(, "hidden_act": "gelu")", {"hidden_act", "'gelu'"}},
      {"gpt_neox", R"(, "hidden_act": "gelu_new")", {"hidden_act", "'gelu_new'"}},
      {"llama", R"(, "rope_scaling": {"type": "dynamic", "factor": 2.0})", {"type", "'dynamic'"}},
      {"llama", R"(, "rope_parameters": {"rope_type": "longrope", "factor": 2.0})", {"'longrope'"}},
      {"llama",
       R"(, "rope_parameters": {"full_attention": {"rope_type": "default"}})",
       {"rope_parameters", "'full_attention'"}},
      {"llama", R"(, "rope_scaling": {"rope_type": "linear"})", {"rope_scaling.factor", "missing"}},
      {"llama",
       R"(, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7})",
       {"rope_scaling.mscale"}},
      {"llama",
       R"(, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5})",
       {"rope_scaling.attention_factor"}},
      {"llama", R"(, "partial_rotary_factor": 0.5)", {"partial_rotary_factor"}},
      {"gpt_neox", R"(, "rotary_pct": 0.4)", {"rotary_pct", "3 dimensions turn"}},
      {"llama", R"(, "num_key_value_heads": 3)", {"num_key_value_heads", "does not divide"}},
      {"llama", R"(, "num_attention_heads": 5)", {"num_attention_heads"}},
      {"llama", R"(, "hidden_size": "big")", {"hidden_size", "expected an integer"}},
      {"llama", R"(, "tie_word_embeddings": 1)", {"tie_word_embeddings", "true or false"}},
      {"llama", R"(, "vocab_size": 99999999999999)", {"vocab_size"}},
      {"mistral",
       R"(, "num_key_value_heads": 2, "layer_types": ["full_attention", "sliding_attention",
          "sliding_attention"])",
       {"layer_types", "all alike"}},
      {"qwen2",
       R"(, "layer_types": ["chunked_attention", "full_attention", "full_attention"])",
       {"layer_types", "'chunked_attention'"}},
  };
  for (const Refusal& r : refusals) {
    SCOPED_TRACE(r.type + r.more);
    // A later key of the same name wins nothing in JSON: take the base one out.
    std::string text = config(r.type, r.more);
    for (const char* base :
         {R"("num_attention_heads": 4, )", R"("hidden_size": 32, )", R"("vocab_size": 100, )"}) {
      const std::string key = std::string(base).substr(0, std::string(base).find(':'));
      if (r.more.find(key) == std::string::npos) continue;
      text.erase(text.find(base), std::string(base).size());
    }
    test::expect_error(ErrorCode::kRequest, r.fragments, [&] { read(text); });
  }
}

TEST(HfConfig, MissingSizesAreErrors) {
  test::expect_error(ErrorCode::kRequest, {"config.json", "model_type"}, [] { read("{}"); });
  test::expect_error(ErrorCode::kRequest, {"vocab_size", "is missing"},
                     [] { read(R"({"model_type": "llama"})"); });
}

}  // namespace
}  // namespace ashlar

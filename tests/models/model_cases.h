#pragma once

#include <fmt/format.h>

#include <ostream>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "models/spec/spec.h"

namespace ashlar::test {

struct ModelCase {
  std::string name;
  std::string yaml;
};

inline void PrintTo(const ModelCase& test_case, std::ostream* out) { *out << test_case.name; }

inline std::string decoder_yaml(const std::string& attention, const std::string& sharing,
                                int layers = 4, const std::string& extra = "") {
  return fmt::format(
      "kind: decoder\nvocab_size: 29\ncontext_length: 64\n{}"
      "decoder: {{d_model: 24, layers: {}, norm: {{eps: 1.0e-5}}, attention: {{{}}}, "
      "kv_sharing: {}, ffn: {{kind: swiglu, d_ff: 36}}}}\n",
      extra, layers, attention, sharing);
}

inline std::string block_yaml(
    int length, int prefix, const std::string& global_sharing, const std::string& local_sharing,
    const std::string& extra = "",
    const std::string& global_attention = "heads: 4, kv_heads: 2, head_dim: 6") {
  return fmt::format(
      "kind: block_transformer\nvocab_size: 29\ncontext_length: 48\n{}"
      "block: {{length: {}, prefix_length: {}}}\n"
      "global: {{d_model: 24, layers: 4, attention: {{{}}}, kv_sharing: {}, ffn: {{d_ff: 36}}}}\n"
      "local: {{d_model: 20, layers: 2, attention: {{heads: 2, kv_heads: 1, head_dim: 10}}, "
      "kv_sharing: {}, ffn: {{d_ff: 28}}}}\n",
      extra, length, prefix, global_attention, global_sharing, local_sharing);
}

/// Free forms: the sections are given whole.
inline std::string sections_yaml(const std::string& model, const std::string& decoder) {
  return fmt::format("kind: decoder\nvocab_size: 29\ncontext_length: 64\n{}decoder: {{{}}}\n",
                     model, decoder);
}

inline std::string block_sections_yaml(const std::string& block, const std::string& global,
                                       const std::string& local, const std::string& extra = "") {
  return fmt::format(
      "kind: block_transformer\nvocab_size: 29\ncontext_length: 48\nblock: {{{}}}\n"
      "global: {{{}}}\nlocal: {{{}}}\n{}",
      block, global, local, extra);
}

/// GPT-NeoX body: LayerNorm, biases, parallel residual, exact GELU, partial RoPE.
inline const std::string kNeox =
    "layers: 2, norm: {kind: layernorm}, residual: parallel, attention: {heads: 4, head_dim: 6, "
    "rope_dim: 2, bias: all}, ffn: {kind: gelu, d_ff: 40, bias: true}";

/// Variants beyond the first issue's.
inline std::vector<ModelCase> variant_cases() {
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 6", ffn = ", ffn: {d_ff: 36}";
  const auto decoder = [&](const std::string& attention, const std::string& more = "",
                           int layers = 2) {
    return sections_yaml("", fmt::format("d_model: 24, layers: {}, attention: {{{}}}{}{}", layers,
                                         attention, ffn, more));
  };
  const std::string mla =
      "kind: mla, heads: 3, head_dim: 6, rope_dim: 4, latent_dim: 10, value_dim: 5";
  const std::string plain = "d_model: 24, layers: 2, attention: {" + gqa + "}" + ffn;
  const std::string local =
      "d_model: 20, layers: 2, attention: {heads: 2, kv_heads: 1, head_dim: 10}, ffn: {d_ff: 28}";
  const std::string encoder =
      "encoder: {d_model: 16, layers: 2, attention: {heads: 2, head_dim: 8}, ffn: {d_ff: 20}}\n";
  return {
      {"window", decoder(gqa + ", window: 3")},
      {"window_every_other",
       decoder(gqa, ", overrides: [{layers: [0, 2], attention: {window: 4}}]", 4)},
      {"window_shared", decoder(gqa + ", window: 4",
                                ", kv_sharing: [0, 1, 0, 1], overrides: [{layers: [1, 3], "
                                "attention: {window: 0}}]",
                                4)},
      {"partial_rope", decoder(gqa + ", rope_dim: 4")},
      {"nope", decoder(gqa + ", rope_dim: 0")},
      {"odd_head", decoder("heads: 3, head_dim: 7, rope_dim: 2")},
      {"rope_linear", decoder(gqa + ", rope_scaling: {kind: linear, factor: 3}")},
      {"rope_llama3",
       decoder(gqa + ", rope_scaling: {kind: llama3, factor: 8, original_context: 16}")},
      {"rope_yarn", decoder(gqa + ", rope_scaling: {kind: yarn, factor: 4, original_context: 16, "
                                  "beta_fast: 2}")},
      {"qk_norm", decoder(gqa + ", qk_norm: true")},
      {"qk_norm_cla2", decoder(gqa + ", qk_norm: true", ", kv_sharing: cla2", 4)},
      {"sinks", decoder(gqa + ", sinks: true")},
      {"sinks_window_cla2", decoder(gqa + ", sinks: true, window: 3", ", kv_sharing: cla2", 4)},
      {"qkv_bias", decoder(gqa + ", bias: qkv")},
      {"all_bias_separate",
       decoder(gqa + ", bias: all, kv_norm: separate", ", kv_sharing: cla2", 4)},
      {"relu2", sections_yaml("", "d_model: 24, layers: 2, attention: {" + gqa +
                                      "}, ffn: {kind: relu2, d_ff: 36}")},
      {"swiglu_bias", sections_yaml("", "d_model: 24, layers: 2, attention: {" + gqa +
                                            "}, ffn: {d_ff: 36, bias: true}")},
      {"layernorm", decoder(gqa, ", norm: {kind: layernorm}")},
      {"layernorm_no_bias", decoder(gqa, ", norm: {kind: layernorm, bias: false}")},
      {"layernorm_separate", decoder(gqa + ", kv_norm: separate", ", norm: {kind: layernorm}")},
      {"parallel_separate", decoder(gqa + ", kv_norm: separate", ", residual: parallel")},
      {"neox", sections_yaml("", "d_model: 24, " + kNeox)},
      {"softcap", sections_yaml("logit_softcap: 2.0\n", plain)},
      {"mla", decoder(mla)},
      {"mla_query_latent", decoder(mla + ", query_latent_dim: 8, sinks: true")},
      {"mla_cla2_window", decoder(mla + ", window: 4, kv_norm: separate", ", kv_sharing: cla2", 4)},
      {"mla_and_gqa", decoder(gqa, ", overrides: [{layers: [1], attention: {" + mla + "}}]")},
      {"block_projection",
       block_sections_yaml("length: 4, embedder: projection, embedding_dim: 7", plain, local)},
      {"block_encoder",
       block_sections_yaml("length: 4, embedder: encoder, cls_tokens: 2", plain, local, encoder)},
      {"block_encoder_no_cls",
       block_sections_yaml("length: 3, embedder: encoder, cls_tokens: 0", plain, local, encoder)},
      {"block_summation", block_sections_yaml("length: 4, context: summation", plain, local)},
      {"block_summation_length1",
       block_sections_yaml("length: 1, context: summation", plain, local)},
      {"block_cross", block_sections_yaml("length: 4, context: cross_attention", plain,
                                          local + ", kv_sharing: cla2")},
      {"block_cross_neox", block_sections_yaml("length: 4, context: cross_attention",
                                               "d_model: 24, " + kNeox, "d_model: 20, " + kNeox)},
      {"block_neox", block_sections_yaml("length: 4, prefix_length: 2", "d_model: 24, " + kNeox,
                                         "d_model: 20, " + kNeox)},
      {"block_window_mla",
       block_sections_yaml(
           "length: 2, prefix_length: 1",
           "d_model: 24, layers: 2, attention: {" + gqa + ", window: 3}, kv_sharing: cla2" + ffn,
           "d_model: 20, layers: 1, attention: {" + mla + "}, ffn: {d_ff: 28}")},
  };
}

/// One model per property the architecture code distinguishes.
inline std::vector<ModelCase> model_cases() {
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 6";
  std::vector<ModelCase> cases = {
      {"mha", decoder_yaml("heads: 4, head_dim: 6", "none")},
      {"gqa", decoder_yaml(gqa, "none")},
      {"mqa", decoder_yaml("heads: 4, kv_heads: 1, head_dim: 6", "none")},
      {"wide_heads", decoder_yaml("heads: 3, kv_heads: 1, head_dim: 14", "none")},
      {"tied", decoder_yaml(gqa, "none", 2, "tied_head: true\n")},
      {"theta", decoder_yaml(gqa + ", rope_theta: 500.0", "none", 1)},
      {"cla2", decoder_yaml(gqa, "cla2")},
      {"cla3", decoder_yaml(gqa, "cla3", 5)},
      {"keep_ends", decoder_yaml(gqa, "keep_ends", 6)},
      {"dense_front", decoder_yaml(gqa, "dense_front", 6)},
      {"dense_back", decoder_yaml(gqa, "dense_back", 6)},
      {"yoco", decoder_yaml(gqa, "yoco")},
      {"interleaved", decoder_yaml(gqa, "[0, 1, 0, 1]")},
      {"cla2_separate_norm", decoder_yaml(gqa + ", kv_norm: separate", "cla2")},
      {"block", block_yaml(4, 2, "none", "none")},
      {"block_cla2", block_yaml(4, 2, "cla2", "none")},
      {"block_cla2_both_separate",
       block_yaml(2, 1, "cla2", "cla2", "", gqa + ", kv_norm: separate")},
      {"block_tied_prefix3", block_yaml(3, 3, "keep_ends", "cla2", "tied_head: true\n")},
      {"block_length1", block_yaml(1, 1, "none", "none")},
  };
  for (ModelCase& variant : variant_cases()) cases.push_back(std::move(variant));
  return cases;
}

inline ModelSpec spec_of(const ModelCase& test_case) {
  return model_spec_from_config(parse_yaml(test_case.yaml, test_case.name + ".yaml"));
}

}  // namespace ashlar::test

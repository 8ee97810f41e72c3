#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/config/config.h"
#include "models/spec/spec.h"

namespace ashlar::test {

inline ModelSpec spec_from_yaml(const std::string& text) {
  return model_spec_from_config(parse_yaml(text, "spec.yaml"));
}

/// Small decoder: GQA 4:2 of 8, d_model 32, FFN 24 = 12·2 (a Hadamard size that is no power of
/// two).
inline ModelSpec small_decoder(const std::string& sharing = "none",
                               const std::string& attention_extra = "", bool tied = false) {
  return spec_from_yaml("kind: decoder\nvocab_size: 61\ncontext_length: 256\ntied_head: " +
                        std::string(tied ? "true" : "false") +
                        "\ndecoder: {d_model: 32, layers: 4, kv_sharing: " + sharing +
                        ", attention: {heads: 4, kv_heads: 2, head_dim: 8" + attention_extra +
                        "}, ffn: {d_ff: 24}}\n");
}

/// Small Block Transformer: L_B 4, P 2, CLA2 in the block decoder, slot width 12 (no power of two).
inline ModelSpec small_block(const std::string& sharing = "cla2", int length = 4, int prefix = 2) {
  return spec_from_yaml(
      "kind: block_transformer\nvocab_size: 61\ncontext_length: 240\n"
      "block: {length: " +
      std::to_string(length) + ", prefix_length: " + std::to_string(prefix) +
      "}\nglobal: {d_model: " + std::to_string(12 * length) +
      ", layers: 4, kv_sharing: " + sharing +
      ", attention: {heads: 4, kv_heads: 2, head_dim: 12, kv_norm: separate}, ffn: {d_ff: 40}}\n"
      "local: {d_model: 24, layers: 2, kv_sharing: cla2, attention: {heads: 2, head_dim: 12}, "
      "ffn: {d_ff: 28}}\n");
}

/// small_decoder() from the whole text of its sections: `model` keys, and those of `decoder`.
inline ModelSpec decoder_variant(const std::string& attention, const std::string& decoder = "",
                                 const std::string& ffn = "d_ff: 24",
                                 const std::string& model = "") {
  return spec_from_yaml("kind: decoder\nvocab_size: 61\ncontext_length: 256\n" + model +
                        "decoder: {d_model: 32, layers: 4, attention: {" + attention + "}, ffn: {" +
                        ffn + "}" + decoder + "}\n");
}

/// Heads of 12 in the block decoder, 24 wide in the token decoder; `block`, `global`, `local` and
/// `more` are further text of their sections.
inline ModelSpec block_variant(const std::string& block, const std::string& global = "",
                               const std::string& local = "", const std::string& more = "",
                               const std::string& kv = "kv_heads: 2") {
  return spec_from_yaml(
      "kind: block_transformer\nvocab_size: 61\ncontext_length: 240\nblock: {length: 4" + block +
      "}\nglobal: {d_model: 48, layers: 4, attention: {heads: 4, head_dim: 12, " + kv +
      "}, ffn: {d_ff: 40}" + global + "}\nlocal: {d_model: 24, layers: 2, ffn: {d_ff: 28}" +
      (local.empty() ? ", attention: {heads: 2, head_dim: 12}" : local) + "}\n" + more);
}

/// A decoder whose layers 0 and 2 see 20 positions, with a sink in every layer.
inline ModelSpec small_windowed(const std::string& sharing = "none") {
  return decoder_variant(
      "heads: 4, kv_heads: 2, head_dim: 8, sinks: true",
      ", kv_sharing: " + sharing + ", overrides: [{layers: [0, 1], attention: {window: 20}}]");
}

inline ModelSpec small_latent(const std::string& extra = "", const std::string& sharing = "none") {
  return decoder_variant(
      "kind: mla, heads: 4, head_dim: 8, latent_dim: 12, rope_dim: 4, value_dim: 4" + extra,
      ", kv_sharing: " + sharing);
}

/// One spec per variant of layers, embedders and contexts.
inline std::vector<std::pair<std::string, ModelSpec>> variant_specs() {
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 8";
  const std::string encoder =
      "encoder: {d_model: 16, layers: 2, attention: {heads: 2, head_dim: 8}, ffn: {d_ff: 20}}\n";
  return {
      {"layernorm_gelu_biases", decoder_variant(gqa + ", bias: all, kv_norm: separate",
                                                ", norm: {kind: layernorm}, kv_sharing: cla2",
                                                "kind: gelu, d_ff: 24, bias: true")},
      {"parallel_relu2_partial_rope",
       decoder_variant(gqa + ", rope_dim: 4, bias: qkv", ", residual: parallel",
                       "kind: relu2, d_ff: 24, bias: true")},
      {"nope_softcap", decoder_variant(gqa + ", rope_dim: 0, bias: all", "", "d_ff: 24, bias: true",
                                       "logit_softcap: 2.5\n")},
      {"yarn",
       decoder_variant(gqa + ", rope_scaling: {kind: yarn, factor: 4, original_context: 64}",
                       ", overrides: [{layers: [1], attention: {rope_scaling: {kind: "
                       "linear, factor: 2}}}, {layers: [2], attention: {rope_scaling: "
                       "{kind: llama3, factor: 8, original_context: 64}}}]")},
      {"qk_norm_cla2", decoder_variant(gqa + ", qk_norm: true", ", kv_sharing: cla2")},
      {"windows_sinks", small_windowed()},
      {"windows_cla2", small_windowed("cla2")},
      {"window_1", decoder_variant(gqa + ", window: 1")},
      {"windows_block1",
       spec_from_yaml("kind: block_transformer\nvocab_size: 61\ncontext_length: 240\n"
                      "block: {length: 1, context: summation}\n"
                      "global: {d_model: 16, layers: 2, attention: {heads: 2, head_dim: 8, window: "
                      "5}, ffn: {d_ff: 20}}\n"
                      "local: {d_model: 12, layers: 1, attention: {heads: 1, head_dim: 12}, ffn: "
                      "{d_ff: 12}}\n")},
      {"latent", small_latent()},
      {"latent_query_cla2", small_latent(", query_latent_dim: 20, kv_norm: separate", "cla2")},
      {"latent_windows_sinks", small_latent(", window: 9, sinks: true")},
      {"latent_nope_parallel",
       decoder_variant("kind: mla, heads: 4, head_dim: 8, latent_dim: 20, rope_dim: 0",
                       ", residual: parallel")},
      {"block_projection", block_variant(", embedder: projection, embedding_dim: 10")},
      {"block_encoder", block_variant(", embedder: encoder, cls_tokens: 2", "", "", encoder)},
      {"block_encoder_tokens",
       block_variant(", embedder: encoder, cls_tokens: 0, context: summation", "", "", encoder)},
      {"block_summation", block_variant(", context: summation", ", norm: {kind: layernorm}",
                                        ", attention: {heads: 2, head_dim: 12, window: 2, sinks: "
                                        "true, qk_norm: true, bias: all}, kv_sharing: cla2")},
      {"block_cross", block_variant(", context: cross_attention",
                                    ", overrides: [{layers: [1], attention: {window: 3}}]",
                                    ", attention: {heads: 2, kv_heads: 1, head_dim: 12, bias: "
                                    "all}, kv_sharing: cla2")},
      {"block_cross_parallel",
       block_variant(", context: cross_attention", "",
                     ", residual: parallel, norm: {kind: layernorm}, attention: {heads: 2, "
                     "head_dim: 12}")},
      {"block_latent",
       block_variant("", "",
                     ", attention: {kind: mla, heads: 2, head_dim: 8, latent_dim: 12, rope_dim: 4}",
                     "", "kind: mla, latent_dim: 20, rope_dim: 4, query_latent_dim: 16")},
  };
}

/// Grouped attention, RMSNorm and SwiGLU with every kind of sharing; lookup and prefix.
inline std::vector<std::pair<std::string, ModelSpec>> basic_specs() {
  return {{"gqa", small_decoder()},
          {"gqa_tied", small_decoder("none", "", true)},
          {"cla2", small_decoder("cla2")},
          {"cla3_separate_norm", small_decoder("cla3", ", kv_norm: separate")},
          {"yoco", small_decoder("yoco")},
          {"block", small_block("none")},
          {"block_cla2", small_block("cla2")},
          {"block_length1", small_block("cla2", 1, 1)},
          {"block_length2_prefix3", small_block("keep_ends", 2, 3)}};
}

/// Every architecture that the engine's property tests run over.
inline std::vector<std::pair<std::string, ModelSpec>> all_small_specs() {
  auto all = basic_specs();
  for (auto& variant : variant_specs()) all.push_back(std::move(variant));
  return all;
}

}  // namespace ashlar::test

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

/// Every architecture that the engine's property tests run over.
inline std::vector<std::pair<std::string, ModelSpec>> all_small_specs() {
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

}  // namespace ashlar::test

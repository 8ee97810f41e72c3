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

/// One model per property the architecture code distinguishes.
inline std::vector<ModelCase> model_cases() {
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 6";
  return {
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
}

inline ModelSpec spec_of(const ModelCase& test_case) {
  return model_spec_from_config(parse_yaml(test_case.yaml, test_case.name + ".yaml"));
}

}  // namespace ashlar::test

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/spec.h"

namespace ashlar {

/// Architectures of the `transformers` library that are imported, and exported to.
enum class HfFamily { kLlama, kMistral, kQwen2, kQwen3, kGptNeox };

/// Value of `model_type`: "llama", "mistral", "qwen2", "qwen3", "gpt_neox".
const char* hf_model_type(HfFamily family);
/// Name of the class with a language-model head: "LlamaForCausalLM", ...
const char* hf_architecture(HfFamily family);

/// What a config.json says.
struct HfConfig {
  HfFamily family = HfFamily::kLlama;
  ModelSpec spec;
  std::vector<int64_t> stop_tokens;  ///< `eos_token_id`: one, several or none
  std::string name;                  ///< `_name_or_path`, or empty
};

/// Reads a config.json in the spellings of transformers 4 and 5 (`rope_theta` and `rope_scaling`,
/// or `rope_parameters`). Keys that are left out have the value the library gives them; keys that
/// no class of these families reads are ignored. Everything that would change the computation and
/// is not supported (another architecture, activation, RoPE type, quantization, experts) throws
/// Error(kRequest) with the key and the reason.
HfConfig read_hf_config(const Node& config);

/// `eos_token_id` of a config.json or generation_config.json: one, several or none.
std::vector<int64_t> read_stop_tokens(const Node& config);

}  // namespace ashlar

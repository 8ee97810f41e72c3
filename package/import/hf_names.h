#pragma once

#include <string>

#include "models/spec/parameters.h"
#include "package/import/hf_config.h"

namespace ashlar {

/// Where a Hugging Face file keeps one of our parameters.
struct HfName {
  std::string name;
  /// GPT-NeoX: 0, 1 or 2 for q, k or v of a fused projection [heads, 3, head_dim, in]; else −1.
  int part = -1;
};
HfName hf_name(HfFamily family, const ParameterSpec& parameter);

/// Buffers that old checkpoints carry and that no model needs: rotary frequencies, causal masks.
bool is_known_leftover(HfFamily family, const std::string& name);

}  // namespace ashlar

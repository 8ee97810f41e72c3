#pragma once

#include <vector>

#include "models/spec/layer_spec.h"

namespace ashlar {

/// What RoPE turns by: pair i of a head at position t turns by t·frequency[i]; cosines and sines
/// are multiplied by `magnitude`.
struct RopeFrequencies {
  std::vector<double> frequency;  ///< [rope.dim / 2]
  double magnitude = 1;           ///< YaRN's attention factor, else 1
};

/// θ^(−2i/dim), stretched by the scaling: linear (arXiv 2306.15595: divided by the factor), YaRN
/// (arXiv 2309.00071 §3.2–3.3: "NTK by parts" with magnitude 0.1·ln(factor) + 1), or Llama 3.1's
/// (wavelengths above original/low_freq_factor divided by the factor, below
/// original/high_freq_factor kept, between them blended).
RopeFrequencies rope_frequencies(const RopeSpec& rope);

}  // namespace ashlar

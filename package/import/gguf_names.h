#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/spec/parameters.h"

// What import and export of GGUF share: architectures and tensor names.

namespace ashlar {

enum class GgufArch { kLlama, kQwen2, kQwen3, kGptNeox };

/// Value of `general.architecture` and prefix of the keys: "llama".
const char* gguf_arch_name(GgufArch arch);
std::optional<GgufArch> gguf_arch(std::string_view name);

/// RoPE of `llama` turns neighbours (2i, 2i+1); the others pair dimension i with i + dim/2, as
/// Ashlar does.
inline bool pairs_neighbours(GgufArch arch) { return arch == GgufArch::kLlama; }

/// GGUF's name of a parameter of a decoder: "blk.3.attn_q.weight", "output_norm.weight". Not for
/// q, k and v of `gptneox`, which are the rows of `gguf_fused_name`, in that order. Null for a role
/// that GGUF has no name for.
std::optional<std::string> gguf_tensor_name(ParameterRole role, int64_t layer);

/// "blk.3.attn_qkv.weight" or ".bias".
std::string gguf_fused_name(int64_t layer, bool bias);

/// For projections to `heads` heads of `head_dim`, of which the first `rope_dim` dimensions turn:
/// entry r is the row of the neighbour pairing that is row r of the half-split pairing.
std::vector<int64_t> half_split_rows(int64_t heads, int64_t head_dim, int64_t rope_dim);

/// Whether RoPE reorders the rows of a parameter: those of W_q, W_k and their biases.
bool is_roped(ParameterRole role);

/// What Llama 3's stretching divides the frequencies by, as the tensor `rope_freqs.weight` holds
/// it: [rope.dim / 2].
std::vector<float> llama3_divisors(const RopeSpec& rope);
inline constexpr const char* kRopeDivisors = "rope_freqs.weight";

}  // namespace ashlar

#pragma once

#include <filesystem>
#include <string_view>

#include "package/format/model_data.h"

namespace ashlar {

/// How the matrices of a GGUF file are stored. Norms and biases are F32 always; with kQ4_0 the
/// token table and the head are Q8_0, as they decide every token.
enum class GgufFileType { kF16, kQ8_0, kQ4_0 };

/// "f16", "q8_0" or "q4_0"; throws Error(kRequest) for another name.
GgufFileType gguf_file_type(std::string_view name);

/// Writes a plain decoder as a GGUF file, whole or not at all: architecture llama, qwen2 (biases on
/// q, k, v), qwen3 (QK-norm) or gptneox (LayerNorm, GELU), with tokenizer and chat template.
/// Values are rounded as GGML's reference implementation does; codes that fit the asked blocks are
/// kept as they are. Returns the bytes of the weights. Throws Error(kRequest) with the reason for
/// what the format or llama.cpp cannot say (Block Transformers, shared K/V, latent attention,
/// windows, sinks, online rotations, …), for codes that would be rounded a second time, and if
/// `path` exists.
int64_t write_gguf(const ModelData& model, const std::filesystem::path& path, GgufFileType type);

}  // namespace ashlar

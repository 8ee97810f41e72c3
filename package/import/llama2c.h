#pragma once

#include <filesystem>

#include "package/format/model_data.h"

namespace ashlar {

/// Reads a model in the legacy format of llama2.c: seven int32 (dim, hidden_dim, n_layers, n_heads,
/// n_kv_heads, vocab_size, seq_len; a negative vocab_size means an untied head), then fp32 tensors,
/// each for all layers in turn. RoPE pairs neighbours there; W_q and W_k are permuted to
/// half-split. RMSNorm eps is 1e-5, theta 10000, as in llama2.c. `tokenizer_json` may be empty.
/// Start token 1, stop tokens 1 and 2. Throws Error(kRequest) when the file is missing,
/// Error(kData) when its header or size is impossible.
ModelData import_llama2c(const std::filesystem::path& model, std::string tokenizer_json);

/// True if the file's header and size fit the format.
bool looks_like_llama2c(const std::filesystem::path& model);

}  // namespace ashlar

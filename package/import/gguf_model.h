#pragma once

#include <filesystem>

#include "core/io/gguf.h"
#include "package/format/model_data.h"

namespace ashlar {

/// Reads a GGUF model of the architectures llama (Llama 2 and 3, Mistral, TinyLlama, SmolLM2),
/// qwen2, qwen3 and gptneox (Pythia) whose tensors are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1,
/// Q8_0, Q4_K, Q5_K or Q6_K. Nothing is rounded: legacy blocks become codes, K-quants stay blocks.
/// Tensors are read when asked for; the file must stay in place meanwhile. RoPE of `llama` pairs
/// neighbours there: rows of W_q, W_k and their biases are permuted to half-split; the fused q, k,
/// v of `gptneox` are taken apart. Head tied when output.weight is absent. `tokenizer_json` is left
/// to the caller. Start token: BOS where the tokenizer puts it in front; stop tokens: EOS, and the
/// ends of turn and message where named. Throws Error(kRequest) when the file is missing,
/// Error(kData) or, at a key, Error(kRequest) when it is damaged or something in it is not
/// supported: one line that names it.
ModelData import_gguf(const std::filesystem::path& path);
/// The same of an opened file.
ModelData import_gguf(const GgufFile& file);

/// Whether the file holds a vocabulary.
bool has_gguf_tokenizer(const GgufFile& file);

}  // namespace ashlar

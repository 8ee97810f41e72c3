#pragma once

#include <filesystem>

#include "package/format/model_data.h"

// A package is a folder in the Hugging Face layout: config.json with an `ashlar` object,
// model.safetensors, tokenizer.json, generation_config.json. docs/formats.md describes every field.

namespace ashlar {

inline constexpr int64_t kPackageVersion = 1;

/// True if `path` is a folder whose config.json has an `ashlar` object.
bool is_package(const std::filesystem::path& path);

/// Opens and fully validates a package; weights stay in a read-only mapping that the tensors keep
/// alive. Throws Error(kRequest) when it is missing or from a newer version, Error(kData) when it
/// is not what it claims to be.
ModelData read_package(const std::filesystem::path& path);

/// Writes a package folder whole or not at all. Throws Error(kRequest) if `path` exists.
void write_package(const ModelData& model, const std::filesystem::path& path);

/// The `ashlar` object of config.json: what the reader checks the weights against.
Node package_object(const ModelData& model);

/// `rope_scaling` as transformers spells it; null without scaling.
Node hf_rope_scaling(const RopeScaling& scaling);
/// `eos_token_id`: the only stop token, or the list of them.
Node hf_stop_tokens(const ModelData& model);
/// `torch_dtype` of a model whose token table is dense.
const char* hf_torch_dtype(const ModelData& model);

/// True if the weights are those of a stock Hugging Face Llama: one decoder, every layer alike and
/// owning its K/V, nothing quantized, no online rotation. Such a package also carries the HF keys.
bool is_plain_llama(const ModelData& model);

}  // namespace ashlar

#pragma once

#include <filesystem>

#include "package/format/model_data.h"

namespace ashlar {

/// Reads a Hugging Face folder of one of the families of hf_config.h: config.json, safetensors
/// (sharded or not), and, where they are there, generation_config.json, tokenizer, and chat
/// template. `folder` may also be a model of the local hub cache: `models--org--name` (what
/// refs/main names) or one of its `snapshots/<revision>`. Tensors stay in read-only mappings; a
/// fused projection is taken apart when asked for. `tokenizer` replaces the one in the folder.
///
/// The start token is set only if the tokenizer puts it in front of a text (`add_bos_token`, else
/// the template of its post-processor). Throws Error(kRequest) for what is not supported (pickled
/// weights always), Error(kData) for files that are damaged or do not fit together: a missing or
/// extra tensor, a head that should be tied.
ModelData import_hf(const std::filesystem::path& folder,
                    const std::filesystem::path& tokenizer = {});

/// True for a folder with a config.json, or one of the hub cache.
bool is_hf_folder(const std::filesystem::path& path);

/// Throws Error(kRequest) if the file is a Python pickle (PyTorch's .pt, .pth and .bin).
void refuse_pickle(const std::filesystem::path& file);

}  // namespace ashlar

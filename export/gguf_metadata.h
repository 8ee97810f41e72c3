#pragma once

#include "core/io/gguf.h"
#include "package/format/model_data.h"
#include "package/import/gguf_names.h"

namespace ashlar {

/// The architecture that says what `model` is. Throws Error(kRequest) with the reason when none
/// does.
GgufArch gguf_arch_of(const ModelData& model);

/// `general.*` and the keys of the architecture.
void add_model_keys(const ModelData& model, GgufArch arch, GgufMetadata& out);

/// `tokenizer.*`: the vocabulary of `model.tokenizer_json`, the tokens that begin and end texts,
/// the chat template. Throws Error(kRequest) for a tokenizer that GGUF has no name for.
void add_tokenizer_keys(const ModelData& model, GgufMetadata& out);

}  // namespace ashlar

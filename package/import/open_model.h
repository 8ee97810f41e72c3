#pragma once

#include <filesystem>

#include "data/tokenizer/tokenizer.h"
#include "package/format/model_data.h"

namespace ashlar {

/// Opens whatever a command line may call MODEL: an Ashlar package, or a foreign model imported in
/// memory: a Hugging Face folder, a GGUF or a llama2.c file. `tokenizer` overrides the one inside
/// or beside the model (empty: look for tokenizer.json, tok<vocab>.bin or tokenizer.bin in the same
/// folder). Throws Error(kRequest) that lists what is accepted.
ModelData open_model(const std::filesystem::path& path,
                     const std::filesystem::path& tokenizer = {});

/// Throws Error(kRequest) naming `path` if the tokenizer has more tokens than the model.
void check_vocabulary(const Tokenizer& tokenizer, const ModelData& model,
                      const std::filesystem::path& path);

}  // namespace ashlar

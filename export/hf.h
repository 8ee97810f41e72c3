#pragma once

#include <filesystem>
#include <optional>

#include "package/format/model_data.h"
#include "package/import/hf_config.h"

namespace ashlar {

struct HfExportOptions {
  std::optional<DType> type;            ///< F32, F16 or BF16; otherwise as stored
  int64_t shard_bytes = 5'000'000'000;  ///< larger models are cut into files of about this size
};

/// The family of the `transformers` library that computes exactly this network, if there is one.
std::optional<HfFamily> stock_family(const ModelSpec& spec);

/// Writes a Hugging Face folder, whole or not at all, one tensor in memory at a time, and returns
/// the bytes of its weights. A network that a stock class computes is written for that class; any
/// other as an Ashlar package with a small modelling file beside it (export/python), which
/// `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads. Throws
/// Error(kRequest) for what neither can say: codes, online rotations, values beyond fp16.
int64_t export_hf(const ModelData& model, const std::filesystem::path& folder,
                  const HfExportOptions& options = {});

}  // namespace ashlar

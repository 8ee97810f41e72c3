#pragma once

#include <filesystem>

#include "package/format/model_data.h"
#include "train/checkpoint/checkpoint.h"

namespace ashlar {

/// True if `path` is a run folder or a checkpoint folder.
bool is_checkpoint(const std::filesystem::path& path);

/// Which of a checkpoint's weights.
enum class CheckpointWeights {
  kTrained,
  kAverage,  ///< their moving average, of a run with `ema:`
};

/// The weights of a run's newest verified checkpoint (or of the given checkpoint) as a model in
/// fp32 with the run's tokenizer; EOS starts and ends every text. Low-rank adapters are merged into
/// the matrices they adapt.
ModelData model_from_checkpoint(const std::filesystem::path& path,
                                CheckpointWeights weights = CheckpointWeights::kTrained);
/// Throws Error(kRequest) when the checkpoint holds no average and it is asked for.
ModelData model_from_checkpoint(const CheckpointReader& reader,
                                CheckpointWeights weights = CheckpointWeights::kTrained);

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace ashlar {

/// A run of a tensor's elements in row-major order: [first, first + values.size()).
struct TensorPiece {
  std::string name;            ///< "parameters/<name>", "optimizer/exp_avg/<name>", …
  std::vector<int64_t> shape;  ///< of the whole tensor
  int64_t first = 0;
  std::span<const float> values;
};

/// "rank_00003.h5"
std::string rank_file_name(int64_t rank);

/// Writes one rank's file into an existing folder: temp name → close → fsync → rename → fsync of
/// the folder. A whole tensor becomes a dataset of its shape; a run becomes one dimension, named
/// "<name>@<first>", with the attributes `first` and `shape` ("512,64"). Empty runs are left out.
/// Throws Error(kIo) when the disk refuses; nothing is left behind then.
CheckpointManifest::File write_shard(const std::filesystem::path& folder, int64_t rank,
                                     std::span<const TensorPiece> pieces);

}  // namespace ashlar

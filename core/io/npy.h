#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

namespace ashlar {

/// Writes a little-endian float32 array in C order as NumPy's .npy (format 1.0), whole or not at
/// all.
void write_npy(const std::filesystem::path& path, std::span<const int64_t> shape,
               std::span<const float> values);

}  // namespace ashlar

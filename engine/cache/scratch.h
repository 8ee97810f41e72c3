#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ashlar {

/// 64-byte aligned start of a byte buffer with room for at least `bytes`: what kernels ask of
/// scratch.
inline std::byte* fit_aligned(std::vector<std::byte>& buffer, int64_t bytes) {
  if (static_cast<int64_t>(buffer.size()) < bytes + 64) {
    buffer.resize(static_cast<size_t>(bytes + 64));
  }
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return buffer.data() + (64 - address % 64) % 64;
}

}  // namespace ashlar

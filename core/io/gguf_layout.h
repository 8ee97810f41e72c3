#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

// What reader and writer of GGUF share.

namespace ashlar::gguf {

inline constexpr std::string_view kMagic = "GGUF";
inline constexpr int64_t kDefaultAlignment = 32;
inline constexpr size_t kMaxNameBytes = 256;

/// Types of metadata values.
enum Value : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// Names stand in messages and in other files: printable ASCII, so that one is one word on one
/// line.
inline bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace ashlar::gguf

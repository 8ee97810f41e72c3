#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace ashlar {

/// A stream of bytes from a file: plain, gzip (`.gz`) or Zstandard (`.zst`), decompressed on the
/// fly. Throws Error(kRequest) for a missing file, Error(kData) for a damaged or truncated one.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills up to `size` bytes; 0 at the end.
  virtual size_t read(char* out, size_t size) = 0;
  /// Passes over `bytes` of the stream; false if it ends before.
  virtual bool skip(int64_t bytes);
  /// Bytes of the file itself that were consumed, for progress.
  virtual int64_t consumed() const = 0;
};
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

}  // namespace ashlar

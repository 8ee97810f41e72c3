#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>

// Private to data/shards.

namespace ashlar {

/// A file of bytes that grows and can be cut back to a length that was known to be safe.
class GrowingFile {
 public:
  /// Creates the file, or opens it and cuts it to `bytes`; throws Error(kData) if it is shorter.
  GrowingFile(std::filesystem::path path, int64_t bytes);
  void append(std::span<const std::byte> bytes);
  /// Everything appended survives a crash.
  void sync();
  /// All bytes from the beginning, in pieces of at most 1 MiB. `element`: pieces are multiples.
  void read(size_t element, const std::function<void(std::span<const std::byte>)>& take);
  int64_t size() const { return size_; }

 private:
  [[noreturn]] void fail_to(const char* what) const;

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  int64_t size_;
};

}  // namespace ashlar

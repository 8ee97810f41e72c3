#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace ashlar {

/// A whole file mapped read-only. A file that shrinks while it is mapped would fault, so consumers
/// copy what they keep and never hand the mapping to kernels.
class MappedFile {
 public:
  /// Throws Error(kRequest) when the file is missing or a folder, Error(kIo) when it cannot be
  /// read.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Tells the system that the whole pages of `part`, a piece of bytes(), are not needed for now: a
  /// file larger than memory can be read piece by piece. Reading them again is allowed.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Keeps `file` alive; when the last copy goes, the pages of `part` are released, so that walking
/// through a large file does not keep it in memory.
std::shared_ptr<const void> hold(std::shared_ptr<const MappedFile> file,
                                 std::span<const std::byte> part);

}  // namespace ashlar

#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace ashlar {

/// A file that appears under its name whole or not at all: written under a temporary name in the
/// same folder, then fsync → rename → fsync of the folder. Without `commit()` the destructor
/// removes it.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends. Throws Error(kIo) with the reason, such as a full disk.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Whole text of a file; throws Error(kRequest) if it is missing.
std::string read_file(const std::filesystem::path& path);

/// Makes renames inside `folder` durable.
void sync_folder(const std::filesystem::path& folder);
/// fsync of a closed file by name.
void sync_file(const std::filesystem::path& file);

/// A folder that appears under its name whole or not at all. Files are put into `staging()`;
/// `commit()` syncs and renames. The destructor removes an uncommitted staging folder.
class AtomicFolder {
 public:
  /// Throws Error(kRequest) if `path` exists already.
  explicit AtomicFolder(std::filesystem::path path);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& staging() const { return staging_; }
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path staging_;
  bool committed_ = false;
};

}  // namespace ashlar

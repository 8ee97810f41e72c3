#pragma once

#include <filesystem>

namespace ashlar {

/// Keeps a second process out of a folder by flock on its file `.lock`; the system releases it when
/// the process ends, however it ends.
class FolderLock {
 public:
  /// Throws Error(kRequest) "FOLDER: another process is WORK in this folder".
  FolderLock(const std::filesystem::path& folder, const char* work);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace ashlar

#include "core/io/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/base/error.h"

namespace ashlar {

FolderLock::FolderLock(const std::filesystem::path& folder, const char* work) {
  const std::filesystem::path path = folder / ".lock";
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  require(fd_ >= 0, ErrorCode::kIo, "{}: cannot be opened", path.string());
  if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  close(fd_);
  fail(ErrorCode::kRequest, "{}: another process is {} in this folder", folder.string(), work);
}

FolderLock::~FolderLock() { close(fd_); }

}  // namespace ashlar

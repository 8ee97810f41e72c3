#include "train/append_file.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"

namespace ashlar {

AppendFile::AppendFile(const std::filesystem::path& path, int64_t bytes)
    : path_(path), bytes_(bytes), synced_(bytes) {
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  require(fd_ >= 0, ErrorCode::kIo, "{}: {}", path.string(), std::strerror(errno));
  struct stat info {};
  const bool known = fstat(fd_, &info) == 0;
  if (known && info.st_size >= bytes && ftruncate(fd_, bytes) == 0) return;
  const int reason = errno;
  close(fd_);
  require(!known || info.st_size >= bytes, ErrorCode::kData,
          "{}: {} bytes, but the checkpoint was written after {}", path.string(),
          static_cast<int64_t>(info.st_size), bytes);
  fail(ErrorCode::kIo, "{}: {}", path.string(), std::strerror(reason));
}

AppendFile::~AppendFile() {
  write_kept();
  if (!kept_.empty()) {
    spdlog::error("{}: its last {} records ({} bytes) are lost: the disk did not take them",
                  path_.string(), kept_.size(), kept_bytes_);
  }
  close(fd_);
}

void AppendFile::append(std::string record) {
  kept_bytes_ += static_cast<int64_t>(record.size());
  kept_.push_back(std::move(record));
  write_kept();
  require(kept_bytes_ <= kMostKept, ErrorCode::kIo,
          "{}: {} bytes could not be written for lack of room or other trouble with the disk",
          path_.string(), kept_bytes_);
}

void AppendFile::write_kept() {
  while (!kept_.empty() && write_whole(kept_.front())) {
    kept_bytes_ -= static_cast<int64_t>(kept_.front().size());
    kept_.pop_front();
  }
  if (kept_.empty() && complained_) {
    spdlog::warn("{}: written again, nothing is missing", path_.string());
    complained_ = false;
  }
}

// A part of a record that a full disk has taken is cut off again.
bool AppendFile::write_whole(const std::string& record) {
  for (size_t done = 0; done < record.size();) {
    const ssize_t n = write(fd_, record.data() + done, record.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      complain(errno);
      require(done == 0 || ftruncate(fd_, bytes_) == 0, ErrorCode::kIo,
              "{}: cannot cut off half a record: {}", path_.string(), std::strerror(errno));
      return false;
    }
    done += static_cast<size_t>(n);
  }
  bytes_ += static_cast<int64_t>(record.size());
  return true;
}

void AppendFile::complain(int reason) {
  if (complained_) return;
  complained_ = true;
  spdlog::error("{}: {}. Training goes on; lines are kept in memory until they can be written",
                path_.string(), std::strerror(reason));
}

int64_t AppendFile::sync() {
  if (fsync(fd_) == 0) {
    synced_ = bytes_;
  } else {
    spdlog::error("{}: cannot sync: {}; a run resumed from here would lose its last lines",
                  path_.string(), std::strerror(errno));
  }
  return synced_;
}

}  // namespace ashlar

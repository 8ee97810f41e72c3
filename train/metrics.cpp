#include "train/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {

MetricsFile::MetricsFile(const std::filesystem::path& path, int64_t bytes)
    : path_(path), bytes_(bytes) {
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

MetricsFile::~MetricsFile() {
  if (fd_ >= 0) close(fd_);
}

void MetricsFile::append(const Node& line) {
  const std::string text = write_json(line) + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    require(n > 0, ErrorCode::kIo, "{}: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(n);
    bytes_ += n;
  }
}

int64_t MetricsFile::position() {
  require(fsync(fd_) == 0, ErrorCode::kIo, "{}: {}", path_.string(), std::strerror(errno));
  return bytes_;
}

}  // namespace ashlar

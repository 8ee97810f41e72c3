#include "engine/cache/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"

namespace ashlar {
namespace {

// O_TMPFILE where the file system knows it, else a name that is removed at once.
int open_nameless(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  std::string pattern = folder + "/ashlar-pages-XXXXXX";
  const int named = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(pattern.c_str());
  return named;
}

}  // namespace

SpillFile::SpillFile(const std::string& folder) : folder_(folder) {
  std::error_code ignored;
  if (folder_.empty()) folder_ = std::filesystem::temp_directory_path(ignored).string();
  fd_ = open_nameless(folder_);
  require(fd_ >= 0, ErrorCode::kIo, "{}: cannot hold a file for pages of the KV cache: {}", folder_,
          std::strerror(errno));
}

SpillFile::~SpillFile() { ::close(fd_); }

int64_t SpillFile::write(std::span<const std::byte> block) {
  const auto size = static_cast<int64_t>(block.size());
  int64_t offset = 0;
  {
    const std::scoped_lock lock(mutex_);
    std::vector<int64_t>& places = free_[size];
    if (places.empty()) {
      offset = end_;
      end_ += size;
    } else {
      offset = places.back();
      places.pop_back();
    }
    bytes_ += size;
  }
  for (size_t done = 0; done < block.size();) {
    const ssize_t n = ::pwrite(fd_, block.data() + done, block.size() - done,
                               static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int reason = n < 0 ? errno : ENOSPC;
      give_back(offset, size);
      fail(ErrorCode::kIo, "{}: a page of the KV cache cannot be written: {}", folder_,
           std::strerror(reason));
    }
    done += static_cast<size_t>(n);
  }
  return offset;
}

void SpillFile::read(int64_t offset, std::span<std::byte> block) const {
  for (size_t done = 0; done < block.size();) {
    const ssize_t n = ::pread(fd_, block.data() + done, block.size() - done,
                              static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (n < 0 && errno == EINTR) continue;
    require(n > 0, ErrorCode::kIo, "{}: a page of the KV cache cannot be read back: {}", folder_,
            n < 0 ? std::strerror(errno) : "the file is shorter than what was written");
    done += static_cast<size_t>(n);
  }
}

void SpillFile::give_back(int64_t offset, int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  free_[bytes].push_back(offset);
  bytes_ -= bytes;
}

// Only advice: what the system makes of it changes no result.
void SpillFile::will_need(int64_t offset, int64_t bytes) const {
  (void)::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                        POSIX_FADV_WILLNEED);
}

int64_t SpillFile::bytes() const {
  const std::scoped_lock lock(mutex_);
  return bytes_;
}

}  // namespace ashlar

#include "data/shards/growing_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/base/error.h"

namespace ashlar {

void GrowingFile::fail_to(const char* what) const {
  fail(ErrorCode::kIo, "{}: cannot {}: {}", path_.string(), what, std::strerror(errno));
}

GrowingFile::GrowingFile(std::filesystem::path path, int64_t bytes)
    : path_(std::move(path)), file_(nullptr, &std::fclose), size_(bytes) {
  const int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail_to("create");
  file_.reset(fdopen(fd, "r+b"));
  if (file_ == nullptr) fail_to("open");
  if (fseeko(file_.get(), 0, SEEK_END) != 0) fail_to("seek");
  const auto there = static_cast<int64_t>(ftello(file_.get()));
  require(there >= bytes, ErrorCode::kData,
          "{}: holds {} bytes, fewer than the {} of its journal; begin anew with --restart",
          path_.string(), there, bytes);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) fail_to("cut");
  if (fseeko(file_.get(), static_cast<off_t>(bytes), SEEK_SET) != 0) fail_to("seek");
}

void GrowingFile::append(std::span<const std::byte> bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) fail_to("write");
  size_ += static_cast<int64_t>(bytes.size());
}

void GrowingFile::sync() {
  if (std::fflush(file_.get()) != 0) fail_to("write");
  if (fdatasync(fileno(file_.get())) != 0) fail_to("sync");
}

void GrowingFile::read(size_t element,
                       const std::function<void(std::span<const std::byte>)>& take) {
  if (std::fflush(file_.get()) != 0) fail_to("write");
  std::rewind(file_.get());
  std::vector<std::byte> piece((size_t{1} << 20) / element * element);
  for (int64_t left = size_; left > 0;) {
    const auto n = static_cast<size_t>(std::min<int64_t>(left, static_cast<int64_t>(piece.size())));
    if (std::fread(piece.data(), 1, n, file_.get()) != n) fail_to("read back");
    take(std::span(piece).first(n));
    left -= static_cast<int64_t>(n);
  }
  if (fseeko(file_.get(), static_cast<off_t>(size_), SEEK_SET) != 0) fail_to("seek");
}

}  // namespace ashlar

#include "core/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/base/error.h"
#include "core/io/mapped_file.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void io_failure(const fs::path& path, const char* what) {
  const int reason = errno;
  fail(ErrorCode::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(reason));
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void sync_path(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) io_failure(path, "open");
  const int result = ::fsync(fd);
  ::close(fd);
  // Some file systems do not sync folders and say EINVAL: nothing more can be done there.
  if (result != 0 && errno != EINVAL) io_failure(path, "sync");
}

std::string temporary_suffix() { return ".tmp-" + std::to_string(::getpid()); }

}  // namespace

void sync_folder(const fs::path& folder) { sync_path(folder, O_RDONLY | O_DIRECTORY); }
void sync_file(const fs::path& file) { sync_path(file, O_RDONLY); }

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  temporary_ = path_;
  temporary_ += temporary_suffix();
  std::error_code ignored;
  fs::create_directories(parent_of(path_), ignored);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) io_failure(path_, "create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0) {
      if (errno == EINTR) continue;
      io_failure(path_, "write");
    }
    done += static_cast<size_t>(n);
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFile::commit() {
  ASHLAR_CHECK(fd_ >= 0);
  if (::fsync(fd_) != 0) io_failure(path_, "sync");
  const int fd = fd_;
  fd_ = -1;
  const bool closed = ::close(fd) == 0;
  if (!closed || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    errno = reason;
    io_failure(path_, closed ? "rename into place" : "close");
  }
  sync_folder(parent_of(path_));
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

AtomicFolder::AtomicFolder(fs::path path) : path_(std::move(path)) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // a trailing slash
  require(path_.has_filename(), ErrorCode::kRequest, "'{}' is no name for a new folder",
          path_.string());
  require(!fs::exists(path_), ErrorCode::kRequest,
          "{}: exists already; remove it or choose another output", path_.string());
  staging_ = path_;
  staging_ += temporary_suffix();
  std::error_code error;
  fs::remove_all(staging_, error);
  fs::create_directories(staging_, error);
  require(!error, ErrorCode::kIo, "{}: cannot create: {}", path_.string(), error.message());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staging_, ignored);
}

void AtomicFolder::commit() {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(staging_)) {
    if (entry.is_regular_file()) sync_file(entry.path());
  }
  sync_folder(staging_);
  std::error_code error;
  fs::rename(staging_, path_, error);
  require(!error, ErrorCode::kIo, "{}: cannot rename into place: {}", path_.string(),
          error.message());
  committed_ = true;
  sync_folder(parent_of(path_));
}

}  // namespace ashlar

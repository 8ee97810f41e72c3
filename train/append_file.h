#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>

namespace ashlar {

/// A file of records that a run appends to, and that must not end the run: what the disk does not
/// take (it is full) is kept in memory, said loudly once, and written as soon as there is room.
/// Records are written whole or not at all.
class AppendFile {
 public:
  /// Most bytes of records that are kept; more end the run after all.
  static constexpr int64_t kMostKept = int64_t{64} << 20;

  /// Opens `path`, making it if needed, cut to `bytes`. Throws Error(kData) if it is shorter than
  /// that, Error(kIo) when it cannot be opened.
  AppendFile(const std::filesystem::path& path, int64_t bytes);
  /// Tries once more to write what is kept; loud if that fails.
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Throws Error(kIo) when more than kMostKept bytes could not be written.
  void append(std::string record);
  /// Length of what is on the disk for good: syncs the file. Records that are kept do not count.
  int64_t sync();
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_kept();
  bool write_whole(const std::string& record);
  void complain(int reason);

  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;   // of whole records in the file
  int64_t synced_ = 0;  // of these, on the disk for good
  std::deque<std::string> kept_;
  int64_t kept_bytes_ = 0;
  bool complained_ = false;
};

}  // namespace ashlar

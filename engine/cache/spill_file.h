#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace ashlar {

/// A file without a name, gone with the process, that holds blocks of bytes. A block that was given
/// back leaves its place to the next of its size. Safe to use from several threads.
class SpillFile {
 public:
  /// In `folder`; empty: $TMPDIR, else /tmp. Throws Error(kIo) naming the folder.
  explicit SpillFile(const std::string& folder);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  /// The block's offset. Throws Error(kIo), such as for a full disk; nothing is taken then.
  int64_t write(std::span<const std::byte> block);
  void read(int64_t offset, std::span<std::byte> block) const;
  void give_back(int64_t offset, int64_t bytes);
  /// The block will be read soon; returns at once.
  void will_need(int64_t offset, int64_t bytes) const;
  /// Of blocks that are not given back.
  int64_t bytes() const;

 private:
  std::string folder_;
  int fd_ = -1;
  mutable std::mutex mutex_;
  int64_t end_ = 0, bytes_ = 0;
  std::unordered_map<int64_t, std::vector<int64_t>> free_;  // offsets by size
};

}  // namespace ashlar

#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace ashlar {

struct BackupOptions {
  int64_t memory = -1;  ///< most bytes of copies in memory, the oldest leave first; −1: no limit
  std::string folder = {};  ///< of the file for the others (SpillFile)
};

class BackupPage;

/// Copies of pages beside the arena, written once and shared by forks: in ordinary memory, and
/// beyond a limit in a file, which a thread writes while the engine goes on. Where a copy lies
/// changes no result.
class BackupStore {
 public:
  explicit BackupStore(const BackupOptions& options = {});
  /// Copies outlive it; what has not been written stays in memory.
  ~BackupStore();
  BackupStore(const BackupStore&) = delete;
  BackupStore& operator=(const BackupStore&) = delete;

  /// A copy of `page`. Waits while more than kSlack bytes above the limit are still to be written.
  std::shared_ptr<const BackupPage> add(std::span<const std::byte> page);
  /// Throws Error(kIo) with the reason once the file could not be opened or written: before a step
  /// that would add more.
  void check() const;
  /// Waits until nothing is left to be written.
  void settle() const;

  int64_t memory_bytes() const;
  int64_t file_bytes() const;

  static constexpr int64_t kSlack = 8 << 20;

 private:
  friend class BackupPage;
  struct Shared;
  static void write_pages(Shared& shared);

  std::shared_ptr<Shared> shared_;
  std::thread writer_;  // where there is a limit
};

/// One copy.
class BackupPage : public std::enable_shared_from_this<BackupPage> {
 public:
  BackupPage(std::shared_ptr<BackupStore::Shared> shared, std::span<const std::byte> bytes);
  ~BackupPage();
  BackupPage(const BackupPage&) = delete;
  BackupPage& operator=(const BackupPage&) = delete;

  int64_t bytes() const { return bytes_; }
  std::vector<std::byte> copy() const;
  /// The copy itself, on a boundary of 64 bytes, where it stays in memory as long as this page
  /// lives; null where there is a limit, beyond which it leaves for the file.
  const std::byte* in_place() const { return in_place_; }
  /// Copies it to `to`, of bytes(). Throws Error(kIo).
  void read(std::span<std::byte> to) const;
  /// It will be read soon: fetches it ahead if it lies in the file.
  void will_need() const;

 private:
  friend class BackupStore;

  const std::shared_ptr<BackupStore::Shared> shared_;
  const int64_t bytes_;
  const std::byte* in_place_ = nullptr;
  // Guarded by the store.
  std::shared_ptr<const std::byte[]> memory_;  // until it is in the file
  int64_t offset_ = -1;                        // in the file
  bool listed_ = false;                        // among those that may go there
  std::list<BackupPage*>::iterator place_;
};

}  // namespace ashlar

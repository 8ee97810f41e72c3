#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ashlar {

/// A ZIP archive that is read member by member, into memory: nothing is ever written, so members'
/// paths are names and no more. Sizes that the archive declares are never believed: memory grows
/// with the bytes that really come, up to a limit.
class ZipArchive {
 public:
  static constexpr int64_t kMaxMembers = 65536;
  static constexpr int64_t kMaxMemberBytes = int64_t{1} << 28;

  struct Member {
    std::string name;
    int64_t size = 0;  ///< as declared
  };

  /// Throws Error(kRequest) for a missing file, Error(kData) for one that is no ZIP archive or has
  /// too many members.
  explicit ZipArchive(const std::filesystem::path& path);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  /// Folders left out.
  const std::vector<Member>& members() const { return members_; }
  /// The whole of member `index`. Throws Error(kData) "archive: member: reason" for one that is
  /// encrypted, compressed in a way other than deflate, damaged, larger than it says or than
  /// kMaxMemberBytes.
  std::string read(size_t index);

 private:
  void read_directory();
  [[noreturn]] void damaged(const std::string& member, const std::string& reason) const;

  std::filesystem::path path_;
  void* file_ = nullptr;
  std::vector<Member> members_;
  std::vector<std::pair<uint64_t, uint64_t>> places_;  ///< of members_, in the directory
};

}  // namespace ashlar

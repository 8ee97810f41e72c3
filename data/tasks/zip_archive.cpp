#include "data/tasks/zip_archive.h"

#include <unzip.h>

#include <array>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr uint16_t kEncrypted = 1, kStored = 0, kDeflated = 8;

}  // namespace

ZipArchive::ZipArchive(const std::filesystem::path& path) : path_(path) {
  require(std::filesystem::is_regular_file(path), ErrorCode::kRequest, "{}: no such file",
          path.string());
  file_ = unzOpen64(path.c_str());
  require(file_ != nullptr, ErrorCode::kData, "{}: not a ZIP archive", path.string());
  try {
    read_directory();
  } catch (...) {
    unzClose(file_);
    throw;
  }
}

ZipArchive::~ZipArchive() { unzClose(file_); }

void ZipArchive::damaged(const std::string& member, const std::string& reason) const {
  fail(ErrorCode::kData, "{}: {}: {}", path_.string(), member, reason);
}

void ZipArchive::read_directory() {
  unz_global_info64 global{};
  require(unzGetGlobalInfo64(file_, &global) == UNZ_OK, ErrorCode::kData,
          "{}: damaged ZIP directory", path_.string());
  require(global.number_entry <= static_cast<uint64_t>(kMaxMembers), ErrorCode::kData,
          "{}: {} members, at most {}", path_.string(), global.number_entry, kMaxMembers);
  int status = global.number_entry == 0 ? UNZ_END_OF_LIST_OF_FILE : unzGoToFirstFile(file_);
  for (uint64_t n = 0; status == UNZ_OK && n < global.number_entry; ++n) {
    unz_file_info64 info{};
    std::array<char, 1024> name{};
    require(unzGetCurrentFileInfo64(file_, &info, name.data(), name.size() - 1, nullptr, 0, nullptr,
                                    0) == UNZ_OK &&
                info.size_filename < name.size(),
            ErrorCode::kData, "{}: damaged ZIP directory at member {}", path_.string(), n);
    unz64_file_pos place{};
    unzGetFilePos64(file_, &place);
    const std::string text(name.data(), info.size_filename);
    if (!text.ends_with('/')) {
      if (info.uncompressed_size > static_cast<uint64_t>(kMaxMemberBytes)) {
        damaged(text, fmt::format("{} bytes, at most {}", info.uncompressed_size, kMaxMemberBytes));
      }
      members_.push_back({text, static_cast<int64_t>(info.uncompressed_size)});
      places_.emplace_back(place.pos_in_zip_directory, place.num_of_file);
    }
    status = unzGoToNextFile(file_);
  }
  require(status == UNZ_END_OF_LIST_OF_FILE, ErrorCode::kData, "{}: damaged ZIP directory",
          path_.string());
}

std::string ZipArchive::read(size_t index) {
  const Member& member = members_.at(index);
  unz64_file_pos place{places_[index].first, places_[index].second};
  unz_file_info64 info{};
  if (unzGoToFilePos64(file_, &place) != UNZ_OK ||
      unzGetCurrentFileInfo64(file_, &info, nullptr, 0, nullptr, 0, nullptr, 0) != UNZ_OK) {
    damaged(member.name, "damaged ZIP directory");
  }
  if (info.flag & kEncrypted) damaged(member.name, "encrypted");
  if (info.compression_method != kStored && info.compression_method != kDeflated) {
    damaged(member.name,
            fmt::format("compression method {} is not deflate", info.compression_method));
  }
  if (unzOpenCurrentFile(file_) != UNZ_OK) damaged(member.name, "damaged ZIP member");
  std::string out;
  std::array<char, 65536> buffer;
  int got = 0;
  while ((got = unzReadCurrentFile(file_, buffer.data(), buffer.size())) > 0) {
    out.append(buffer.data(), static_cast<size_t>(got));
    if (std::ssize(out) > member.size) break;
  }
  // Closing tells whether the checksum holds, once everything has been read.
  const int closed = unzCloseCurrentFile(file_);
  if (got < 0 || closed != UNZ_OK || std::ssize(out) != member.size) {
    damaged(member.name,
            fmt::format("damaged ZIP member: {} of {} bytes", out.size(), member.size));
  }
  return out;
}

}  // namespace ashlar

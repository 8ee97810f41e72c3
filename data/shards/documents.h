#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace ashlar {

/// A stream of bytes from a file: plain, gzip (`.gz`) or Zstandard (`.zst`), decompressed on the
/// fly. Throws Error(kRequest) for a missing file, Error(kData) for a damaged or truncated one.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Fills up to `size` bytes; 0 at the end.
  virtual size_t read(char* out, size_t size) = 0;
  /// Bytes of the file itself that were consumed, for progress.
  virtual int64_t consumed() const = 0;
};
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

/// The documents of a list of files, in order: a `.txt` is one document, each line of a `.jsonl` is
/// one (the text under key `text`; blank lines are skipped); both also `.gz` and `.zst`. Streams:
/// one document is in memory at a time, at most kMaxDocumentBytes of it.
class DocumentReader {
 public:
  static constexpr int64_t kMaxDocumentBytes = int64_t{1} << 31;

  /// Checks that every file exists and has a known name before any is read; throws
  /// Error(kRequest).
  explicit DocumentReader(std::vector<std::filesystem::path> files);
  ~DocumentReader();

  /// Next document; false at the end. Throws Error(kData) "file:line: reason".
  bool next(std::string& document);
  /// Bytes of all files together, and how many of them were read: for progress.
  int64_t total_bytes() const { return total_bytes_; }
  int64_t consumed_bytes() const;

 private:
  void open_next();
  bool next_line(std::string& line);

  std::vector<std::filesystem::path> files_;
  size_t next_file_ = 0;
  int64_t total_bytes_ = 0;
  int64_t finished_bytes_ = 0;
  std::unique_ptr<ByteSource> source_;  ///< null between files
  bool lines_ = false;                  ///< the open file is a .jsonl
  int64_t line_ = 0;
  std::string buffer_;  ///< bytes of the open file not handed out yet
  size_t buffer_at_ = 0;
};

}  // namespace ashlar

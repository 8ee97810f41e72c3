#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/shards/byte_source.h"

namespace ashlar {

/// A text file to read documents from.
struct InputFile {
  std::filesystem::path path;
  int64_t bytes = 0;     ///< of the file as it is on disk
  int64_t modified = 0;  ///< nanoseconds since the epoch
  bool lines = false;    ///< .jsonl: a document a line; otherwise .txt: one document
};

/// The files named by `inputs`, in order; a folder stands for every .txt and .jsonl in it, also .gz
/// and .zst, at any depth, sorted by path. Throws Error(kRequest) for a missing file, one whose
/// name says another format, and a folder without any.
std::vector<InputFile> list_inputs(const std::vector<std::filesystem::path>& inputs);

/// One line of a .jsonl, or a whole .txt, as it is in the file.
struct Record {
  std::string bytes;
  int64_t line = 0;       ///< 1-based; 0 of a .txt
  bool too_long = false;  ///< beyond the limit and passed over: `bytes` is empty
};

/// A place between two records of a file.
struct RecordPosition {
  int64_t offset = 0;  ///< bytes of the decompressed file before it
  int64_t line = 0;    ///< lines before it; of a .txt 1 at its end, with offset 0
};

/// The records of one file. Streams: one record is in memory at a time.
class RecordReader {
 public:
  /// A record longer than `max_bytes` throws Error(kData) "file:line: …", or with `skip_long` is
  /// passed over without being held in memory.
  RecordReader(InputFile file, int64_t max_bytes, bool skip_long, const RecordPosition& from = {});

  /// Next record; false at the end. Blank lines are none.
  bool next(Record& record);
  RecordPosition position() const { return position_; }
  /// Bytes of the file that were consumed, for progress.
  int64_t consumed() const { return source_->consumed(); }

 private:
  bool next_line(Record& record);
  bool next_whole(Record& record);
  bool fill();
  void refuse_long(int64_t line) const;

  InputFile file_;
  int64_t max_bytes_;
  bool skip_long_;
  std::unique_ptr<ByteSource> source_;
  RecordPosition position_;
  std::string buffer_;  ///< bytes not handed out yet are those from buffer_at_
  size_t buffer_at_ = 0;
};

/// The text of a record: the whole of a .txt, byte for byte; of a .jsonl the string under `key` of
/// the line's object. Throws Error(kData) "file:line: reason".
std::string text_of(Record record, const InputFile& file, const std::string& key);

/// "file:line", or "file" of a .txt.
std::string place_of(const InputFile& file, int64_t line);

/// The documents of a list of files, in order, one in memory at a time.
class DocumentReader {
 public:
  static constexpr int64_t kMaxDocumentBytes = int64_t{1} << 31;

  /// Checks that every file exists and has a known name before any is read; see list_inputs.
  explicit DocumentReader(const std::vector<std::filesystem::path>& inputs,
                          std::string text_key = "text");

  /// Next document; false at the end. Throws Error(kData) "file:line: reason".
  bool next(std::string& document);
  /// Bytes of all files together, and how many of them were read: for progress.
  int64_t total_bytes() const { return total_bytes_; }
  int64_t consumed_bytes() const;

 private:
  std::vector<InputFile> files_;
  std::string text_key_;
  size_t next_file_ = 0;
  int64_t total_bytes_ = 0;
  int64_t finished_bytes_ = 0;
  std::unique_ptr<RecordReader> reader_;  ///< null between files
};

}  // namespace ashlar

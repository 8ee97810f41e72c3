#pragma once

#include <cstdint>
#include <filesystem>

#include "core/base/node.h"
#include "train/append_file.h"

namespace ashlar {

/// metrics.jsonl of a run: one JSON object per line, appended whole. A checkpoint records the
/// length that belongs to it; opening for a resumed run cuts the file back to that length, so that
/// every step stands in it once.
class MetricsFile {
 public:
  /// Opens `path`, cut to `bytes`. Of a shorter file, or one that is gone, the whole lines stay,
  /// with an error in the log: a run must be resumable without its metrics.
  MetricsFile(const std::filesystem::path& path, int64_t bytes);

  /// A disk that is full delays the line (append_file.h).
  void append(const Node& line);
  /// Length so far on the disk; what a checkpoint stores. Syncs the file first.
  int64_t position() { return file_.sync(); }

 private:
  AppendFile file_;
};

}  // namespace ashlar

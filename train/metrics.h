#pragma once

#include <cstdint>
#include <filesystem>

#include "core/base/node.h"

namespace ashlar {

/// metrics.jsonl of a run: one JSON object per line, appended whole. A checkpoint records the
/// length that belongs to it; opening for a resumed run cuts the file back to that length, so that
/// every step stands in it once.
class MetricsFile {
 public:
  /// Opens `path`, cut to `bytes`. Throws Error(kData) if the file is shorter than that.
  MetricsFile(const std::filesystem::path& path, int64_t bytes);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  void append(const Node& line);
  /// Length so far; what a checkpoint stores. Syncs the file first.
  int64_t position();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

}  // namespace ashlar

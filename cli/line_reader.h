#pragma once

#include <string>

namespace ashlar::cli {

/// Reads lines from a file descriptor so that a signal can interrupt the wait, which streams hide.
class LineReader {
 public:
  enum class Status { kLine, kEnd, kInterrupted };

  explicit LineReader(int descriptor) : descriptor_(descriptor) {}

  /// The next line without its end. kInterrupted: a signal came before one was complete; what had
  /// been typed is dropped. A last line without an end counts. Throws Error(kIo).
  Status next(std::string& line);

 private:
  int descriptor_;
  std::string buffer_;
  bool ended_ = false;
};

}  // namespace ashlar::cli

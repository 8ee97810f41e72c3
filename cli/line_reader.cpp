#include "cli/line_reader.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"

namespace ashlar::cli {

LineReader::Status LineReader::next(std::string& line) {
  size_t searched = 0;
  for (;;) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      break;
    }
    if (ended_) {
      if (buffer_.empty()) return Status::kEnd;
      line = std::move(buffer_);
      buffer_.clear();
      break;
    }
    searched = buffer_.size();
    char chunk[4096];
    const ssize_t count = read(descriptor_, chunk, sizeof chunk);
    if (count < 0 && errno == EINTR) {
      buffer_.clear();
      return Status::kInterrupted;
    }
    require(count >= 0, ErrorCode::kIo, "standard input: {}", std::strerror(errno));
    ended_ = count == 0;
    buffer_.append(chunk, static_cast<size_t>(count));
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return Status::kLine;
}

}  // namespace ashlar::cli

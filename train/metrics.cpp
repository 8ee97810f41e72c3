#include "train/metrics.h"

#include <spdlog/spdlog.h>

#include "core/io/atomic_file.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

// `bytes`, or the whole lines of a file that is shorter: training does not need its log.
int64_t whole_lines(const fs::path& path, int64_t bytes) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error ? bytes == 0 : std::cmp_greater_equal(size, bytes)) return bytes;
  const size_t end = error ? std::string::npos : read_file(path).rfind('\n');
  const int64_t kept = end == std::string::npos ? 0 : static_cast<int64_t>(end) + 1;
  spdlog::error(
      "{}: {} bytes of the {} that the checkpoint knows are gone; the log goes on after {} of them",
      path.string(), bytes - (error ? 0 : static_cast<int64_t>(size)), bytes, kept);
  return kept;
}

}  // namespace

MetricsFile::MetricsFile(const fs::path& path, int64_t bytes)
    : file_(path, whole_lines(path, bytes)) {}

void MetricsFile::append(const Node& line) { file_.append(write_json(line) + "\n"); }

}  // namespace ashlar

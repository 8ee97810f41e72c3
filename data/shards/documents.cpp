#include "data/shards/documents.h"

#include <utility>

#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

/// The extension below .gz and .zst.
fs::path content_extension(const fs::path& path) {
  const fs::path last = path.extension();
  return last == ".gz" || last == ".zst" ? path.stem().extension() : last;
}

}  // namespace

DocumentReader::DocumentReader(std::vector<fs::path> files) : files_(std::move(files)) {
  require(!files_.empty(), ErrorCode::kRequest, "no input files");
  for (const fs::path& file : files_) {
    std::error_code error;
    require(fs::is_regular_file(file, error), ErrorCode::kRequest, "{}: {}", file.string(),
            fs::exists(file, error) ? "not a regular file" : "no such file");
    const fs::path extension = content_extension(file);
    require(extension == ".txt" || extension == ".jsonl", ErrorCode::kRequest,
            "{}: input files are .txt or .jsonl, also .gz or .zst", file.string());
    total_bytes_ += static_cast<int64_t>(fs::file_size(file));
  }
}

DocumentReader::~DocumentReader() = default;

int64_t DocumentReader::consumed_bytes() const {
  return finished_bytes_ + (source_ == nullptr ? 0 : source_->consumed());
}

void DocumentReader::open_next() {
  const fs::path& file = files_[next_file_++];
  source_ = open_byte_source(file);
  lines_ = content_extension(file) == ".jsonl";
  line_ = 0;
  buffer_.clear();
  buffer_at_ = 0;
}

bool DocumentReader::next_line(std::string& line) {
  const fs::path& file = files_[next_file_ - 1];
  size_t searched = buffer_at_;
  while (true) {
    if (const size_t end = buffer_.find('\n', searched); end != std::string::npos) {
      line.assign(buffer_, buffer_at_, end - buffer_at_);
      buffer_at_ = end + 1;
      return true;
    }
    // Move the unfinished line to the front, then read on.
    buffer_.erase(0, buffer_at_);
    buffer_at_ = 0;
    searched = buffer_.size();
    require(static_cast<int64_t>(searched) <= kMaxDocumentBytes, ErrorCode::kData,
            "{}:{}: line is longer than {} bytes", file.string(), line_ + 1, kMaxDocumentBytes);
    constexpr size_t kStep = 1 << 20;
    buffer_.resize(searched + kStep);
    buffer_.resize(searched + source_->read(buffer_.data() + searched, kStep));
    if (buffer_.size() == searched) {
      line = std::exchange(buffer_, {});
      return !line.empty();
    }
  }
}

bool DocumentReader::next(std::string& document) {
  while (true) {
    if (source_ == nullptr) {
      if (next_file_ == files_.size()) return false;
      open_next();
    }
    const fs::path& file = files_[next_file_ - 1];
    if (!lines_) {
      document.clear();
      constexpr size_t kStep = 1 << 20;
      while (true) {
        const size_t size = document.size();
        require(static_cast<int64_t>(size) <= kMaxDocumentBytes, ErrorCode::kData,
                "{}: document is longer than {} bytes", file.string(), kMaxDocumentBytes);
        document.resize(size + kStep);
        document.resize(size + source_->read(document.data() + size, kStep));
        if (document.size() == size) break;
      }
    } else if (std::string line; next_line(line)) {
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const std::string where = fmt::format("{}:{}", file.string(), line_);
      const Node row = parse_json(line, where);
      const Node* text = row.is_map() ? row.find("text") : nullptr;
      require(text != nullptr && text->is_string(), ErrorCode::kData,
              "{}: text: expected an object with a string under this key", where);
      document = text->as_string();
      return true;
    } else {
      finished_bytes_ += source_->consumed();
      source_.reset();
      continue;
    }
    finished_bytes_ += source_->consumed();
    source_.reset();
    return true;
  }
}

}  // namespace ashlar

#include "data/shards/documents.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr size_t kStep = 1 << 20;

/// The extension below .gz and .zst.
fs::path content_extension(const fs::path& path) {
  const fs::path last = path.extension();
  return last == ".gz" || last == ".zst" ? path.stem().extension() : last;
}

bool is_known(const fs::path& path) {
  const fs::path extension = content_extension(path);
  return extension == ".txt" || extension == ".jsonl";
}

InputFile input_file(const fs::path& path) {
  require(path.extension() != ".parquet", ErrorCode::kRequest,
          "{}: Parquet is not read; convert it with: python3 -c \"import pandas; "
          "pandas.read_parquet('{}').to_json('{}', orient='records', lines=True, "
          "force_ascii=False)\"",
          path.string(), path.filename().string(), path.stem().string() + ".jsonl.gz");
  require(is_known(path), ErrorCode::kRequest,
          "{}: input files are .txt or .jsonl, also .gz or .zst", path.string());
  struct stat info {};
  require(stat(path.c_str(), &info) == 0, ErrorCode::kRequest, "{}: no such file", path.string());
  return {path, info.st_size, info.st_mtim.tv_sec * int64_t{1000000000} + info.st_mtim.tv_nsec,
          content_extension(path) == ".jsonl"};
}

}  // namespace

std::vector<InputFile> list_inputs(const std::vector<fs::path>& inputs) {
  require(!inputs.empty(), ErrorCode::kRequest, "no input files");
  std::vector<InputFile> files;
  for (const fs::path& input : inputs) {
    std::error_code error;
    if (!fs::is_directory(input, error)) {
      require(fs::is_regular_file(input, error), ErrorCode::kRequest, "{}: {}", input.string(),
              fs::exists(input, error) ? "not a regular file" : "no such file");
      files.push_back(input_file(input));
      continue;
    }
    std::vector<fs::path> found;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(input)) {
      if (entry.is_regular_file() && is_known(entry.path())) found.push_back(entry.path());
    }
    require(!found.empty(), ErrorCode::kRequest,
            "{}: holds no .txt or .jsonl files, also .gz or .zst", input.string());
    std::sort(found.begin(), found.end());
    for (const fs::path& path : found) files.push_back(input_file(path));
  }
  return files;
}

std::string place_of(const InputFile& file, int64_t line) {
  return file.lines ? fmt::format("{}:{}", file.path.string(), line) : file.path.string();
}

RecordReader::RecordReader(InputFile file, int64_t max_bytes, bool skip_long,
                           const RecordPosition& from)
    : file_(std::move(file)),
      max_bytes_(max_bytes),
      skip_long_(skip_long),
      source_(open_byte_source(file_.path)),
      position_(from) {
  require(from.offset == 0 || source_->skip(from.offset), ErrorCode::kData,
          "{}: its text ends before byte {}, where it is to be continued", file_.path.string(),
          from.offset);
}

void RecordReader::refuse_long(int64_t line) const {
  if (skip_long_) return;
  fail(ErrorCode::kData,
       "{}: document is longer than {} bytes: raise --max-document (and --memory), or pass over "
       "such documents "
       "with --long-documents skip",
       place_of(file_, line), max_bytes_);
}

// Reads on behind what is left; false at the end of the file.
bool RecordReader::fill() {
  buffer_.erase(0, buffer_at_);
  buffer_at_ = 0;
  const size_t size = buffer_.size();
  buffer_.resize(size + kStep);
  buffer_.resize(size + source_->read(buffer_.data() + size, kStep));
  return buffer_.size() > size;
}

bool RecordReader::next_line(Record& record) {
  record = {};
  size_t searched = 0;  // bytes of the line known to hold no line break
  while (true) {
    const size_t end = buffer_.find('\n', buffer_at_ + searched);
    const bool found = end != std::string::npos;
    size_t held = (found ? end : buffer_.size()) - buffer_at_;
    if (record.too_long || static_cast<int64_t>(held) > max_bytes_) {
      refuse_long(position_.line + 1);
      record.too_long = true;
      position_.offset += static_cast<int64_t>(held);
      buffer_at_ += held;
      held = 0;
    }
    searched = held;
    if (!found && fill()) continue;
    if (!found && held == 0 && !record.too_long) return false;
    position_.offset += static_cast<int64_t>(held + (found ? 1 : 0));
    if (buffer_at_ == 0 && held > kStep) {  // handed over, so that the buffer does not stay large
      std::string rest = found ? buffer_.substr(held + 1) : std::string();
      buffer_.resize(held);
      record.bytes = std::exchange(buffer_, std::move(rest));
    } else {
      record.bytes.assign(buffer_, buffer_at_, held);
      buffer_at_ += held + (found ? 1 : 0);
    }
    record.line = ++position_.line;
    return true;
  }
}

bool RecordReader::next_whole(Record& record) {
  if (position_.line > 0) return false;
  position_.line = 1;  // the file is done
  record = {};
  while (fill()) {
    if (static_cast<int64_t>(buffer_.size()) <= max_bytes_) continue;
    refuse_long(0);
    record.too_long = true;
    return true;
  }
  record.bytes = std::exchange(buffer_, {});
  return true;
}

bool RecordReader::next(Record& record) {
  if (!file_.lines) return next_whole(record);
  while (next_line(record)) {
    if (record.too_long || record.bytes.find_first_not_of(" \t\r") != std::string::npos) {
      return true;
    }
  }
  return false;
}

std::string text_of(Record record, const InputFile& file, const std::string& key) {
  if (!file.lines) return std::move(record.bytes);
  const std::string where = place_of(file, record.line);
  Node row = parse_json(record.bytes, where);
  Node* text = row.is_map() ? row.find(key) : nullptr;
  require(text != nullptr && text->is_string(), ErrorCode::kData,
          "{}: {}: expected an object with a string under this key", where, key);
  return text->as_string();
}

DocumentReader::DocumentReader(const std::vector<fs::path>& inputs, std::string text_key)
    : files_(list_inputs(inputs)), text_key_(std::move(text_key)) {
  for (const InputFile& file : files_) total_bytes_ += file.bytes;
}

int64_t DocumentReader::consumed_bytes() const {
  return finished_bytes_ + (reader_ == nullptr ? 0 : reader_->consumed());
}

bool DocumentReader::next(std::string& document) {
  while (true) {
    if (reader_ == nullptr) {
      if (next_file_ == files_.size()) return false;
      reader_ = std::make_unique<RecordReader>(files_[next_file_++], kMaxDocumentBytes, false);
    }
    Record record;
    if (reader_->next(record)) {
      document = text_of(std::move(record), files_[next_file_ - 1], text_key_);
      return true;
    }
    finished_bytes_ += reader_->consumed();
    reader_.reset();
  }
}

}  // namespace ashlar

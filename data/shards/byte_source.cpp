#include "data/shards/byte_source.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/base/error.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(const fs::path& path)
      : path_(path), file_(std::fopen(path.c_str(), "rb"), &std::fclose) {
    require(file_ != nullptr, ErrorCode::kRequest, "{}: cannot open", path.string());
  }
  size_t read(char* out, size_t size) override {
    const size_t n = std::fread(out, 1, size, file_.get());
    require(n == size || std::ferror(file_.get()) == 0, ErrorCode::kIo, "{}: cannot read",
            path_.string());
    consumed_ += static_cast<int64_t>(n);
    return n;
  }
  bool skip(int64_t bytes) override {
    require(fseeko(file_.get(), static_cast<off_t>(bytes), SEEK_CUR) == 0, ErrorCode::kIo,
            "{}: cannot seek", path_.string());
    consumed_ += bytes;
    std::error_code error;
    return consumed_ <= static_cast<int64_t>(fs::file_size(path_, error)) && !error;
  }
  int64_t consumed() const override { return consumed_; }

 private:
  fs::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  int64_t consumed_ = 0;
};

constexpr size_t kInputBytes = 1 << 16;

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(const fs::path& path) : path_(path), file_(path), input_(kInputBytes) {
    // 15 window bits, +16: the gzip format alone.
    require(inflateInit2(&stream_, 15 + 16) == Z_OK, ErrorCode::kResource, "out of memory in zlib");
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(size, 1u << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0) {
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
        stream_.avail_in = static_cast<uInt>(file_.read(input_.data(), input_.size()));
        if (stream_.avail_in == 0) {
          require(between_members_, ErrorCode::kData, "{}: gzip data is truncated", path_.string());
          return 0;
        }
      }
      between_members_ = false;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      require(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, ErrorCode::kData,
              "{}: gzip data is damaged ({})", path_.string(),
              stream_.msg == nullptr ? "unknown reason" : stream_.msg);
      if (status == Z_STREAM_END) {  // another member may follow
        between_members_ = true;
        inflateReset(&stream_);
      }
    }
    return wanted - stream_.avail_out;
  }
  int64_t consumed() const override { return file_.consumed(); }

 private:
  fs::path path_;
  PlainSource file_;
  std::vector<char> input_;
  z_stream stream_{};
  bool between_members_ = false;
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(const fs::path& path)
      : path_(path),
        file_(path),
        input_(kInputBytes),
        stream_(ZSTD_createDStream(), &ZSTD_freeDStream) {
    require(stream_ != nullptr, ErrorCode::kResource, "out of memory in zstd");
  }

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer output{out, size, 0};
    while (output.pos == 0 && size > 0) {
      if (pending_.pos == pending_.size && !more_output_) {
        pending_ = {input_.data(), file_.read(input_.data(), input_.size()), 0};
        if (pending_.size == 0) {
          require(between_frames_, ErrorCode::kData, "{}: zstd data is truncated", path_.string());
          return 0;
        }
      }
      const size_t status = ZSTD_decompressStream(stream_.get(), &output, &pending_);
      require(ZSTD_isError(status) == 0, ErrorCode::kData, "{}: zstd data is damaged ({})",
              path_.string(), ZSTD_getErrorName(status));
      between_frames_ = status == 0;
      // A full output buffer may hide more output that needs no further input.
      more_output_ = output.pos == output.size && status != 0;
    }
    return output.pos;
  }
  int64_t consumed() const override { return file_.consumed(); }

 private:
  fs::path path_;
  PlainSource file_;
  std::vector<char> input_;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  ZSTD_inBuffer pending_{nullptr, 0, 0};
  bool between_frames_ = false;
  bool more_output_ = false;
};

}  // namespace

bool ByteSource::skip(int64_t bytes) {
  std::vector<char> ignored(1 << 20);
  while (bytes > 0) {
    const size_t n = read(ignored.data(), static_cast<size_t>(std::min<int64_t>(bytes, 1 << 20)));
    if (n == 0) return false;
    bytes -= static_cast<int64_t>(n);
  }
  return true;
}

std::unique_ptr<ByteSource> open_byte_source(const fs::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipSource>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdSource>(path);
  return std::make_unique<PlainSource>(path);
}

}  // namespace ashlar

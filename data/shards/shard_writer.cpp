#include "data/shards/shard_writer.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

#include "core/base/error.h"
#include "core/hdf5/hdf5.h"
#include "core/io/atomic_file.h"

namespace ashlar {
namespace fs = std::filesystem;

/// The tokens of the shard being collected, in the shard's own element type.
struct ShardWriter::RawFile {
  fs::path path;
  std::FILE* file = nullptr;

  explicit RawFile(fs::path name) : path(std::move(name)), file(std::fopen(path.c_str(), "w+b")) {
    require(file != nullptr, ErrorCode::kIo, "{}: cannot create: {}", path.string(),
            std::strerror(errno));
  }
  ~RawFile() {
    if (file != nullptr) std::fclose(file);
    std::error_code ignored;
    fs::remove(path, ignored);
  }
  void write(const void* data, size_t bytes) {
    require(std::fwrite(data, 1, bytes, file) == bytes, ErrorCode::kIo, "{}: cannot write: {}",
            path.string(), std::strerror(errno));
  }
};

ShardWriter::ShardWriter(Options options) : options_(std::move(options)) {
  ASHLAR_CHECK(options_.dtype == DType::kU16 || options_.dtype == DType::kU32);
  require(options_.dtype == DType::kU32 || options_.vocab_size <= 65536, ErrorCode::kRequest,
          "a vocabulary of {} tokens does not fit uint16: use uint32", options_.vocab_size);
  require(options_.shard_tokens > 0, ErrorCode::kRequest, "shard size must be positive");
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::append(std::span<const int32_t> ids) {
  const auto write_as = [&]<typename T>(T) {
    std::vector<T> narrow(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      ASHLAR_CHECK(ids[i] >= 0 && ids[i] < options_.vocab_size);
      narrow[i] = static_cast<T>(ids[i]);
    }
    raw_->write(narrow.data(), narrow.size() * sizeof(T));
  };
  if (options_.dtype == DType::kU16) {
    write_as(uint16_t{});
  } else {
    write_as(uint32_t{});
  }
  current_.tokens += static_cast<int64_t>(ids.size());
}

void ShardWriter::add(std::span<const int32_t> ids, int64_t source_bytes) {
  const auto length = static_cast<int64_t>(ids.size()) + 1;
  if (current_.tokens > 0 && current_.tokens + length > options_.shard_tokens) close_shard();
  if (raw_ == nullptr) {
    raw_ = std::make_unique<RawFile>(options_.folder / "tokens.raw.tmp");
  }
  offsets_.push_back(current_.tokens);
  append(ids);
  append(std::span(&options_.eos_id, 1));
  ++current_.documents;
  current_.source_bytes += source_bytes;
}

void ShardWriter::close_shard() {
  current_.file = fmt::format("data-{:05}.h5", shards_.size());
  const fs::path path = options_.folder / current_.file;
  const fs::path temporary = path.string() + ".tmp";
  struct Remover {
    const fs::path& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove(path, ignored);  // gone already when all went well
    }
  } remover{temporary};

  require(std::fflush(raw_->file) == 0, ErrorCode::kIo, "{}: cannot write: {}", raw_->path.string(),
          std::strerror(errno));
  std::rewind(raw_->file);
  H5File out = H5File::create(temporary);
  H5Writer writer = out.stream("data", options_.dtype, {current_.tokens});
  std::vector<std::byte> piece(1 << 20);
  int64_t left = current_.tokens * dtype_bytes(options_.dtype);
  while (left > 0) {
    const auto size = static_cast<size_t>(std::min<int64_t>(left, 1 << 20));
    require(std::fread(piece.data(), 1, size, raw_->file) == size, ErrorCode::kIo,
            "{}: cannot read back", raw_->path.string());
    writer.append(std::span<const std::byte>(piece.data(), size));
    left -= static_cast<int64_t>(size);
  }
  writer.finish();
  out.write<int64_t>("document_offsets", {static_cast<int64_t>(offsets_.size())}, offsets_);
  out.set_attribute("", "format", std::string("ashlar-tokens-1"));
  out.set_attribute("", "vocabulary_sha256", options_.vocabulary_sha256);
  out.set_attribute("", "vocab_size", options_.vocab_size);
  out.set_attribute("", "eos_id", int64_t{options_.eos_id});
  out.set_attribute("", "documents", current_.documents);
  out.set_attribute("", "source_bytes", current_.source_bytes);
  out.set_attribute("", "tokens", current_.tokens);
  out.close();
  sync_file(temporary);
  fs::rename(temporary, path);
  sync_folder(options_.folder);

  raw_.reset();
  offsets_.clear();
  shards_.push_back(std::exchange(current_, {}));
}

std::vector<ShardInfo> ShardWriter::finish() {
  if (current_.tokens > 0) close_shard();
  return shards_;
}

}  // namespace ashlar

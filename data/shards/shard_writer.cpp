#include "data/shards/shard_writer.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/hdf5/hdf5.h"
#include "core/io/atomic_file.h"

namespace ashlar {
namespace fs = std::filesystem;

namespace {

std::string shard_name(size_t shard) { return fmt::format("data-{:05}.h5", shard); }

}  // namespace

ShardWriter::ShardWriter(Options options) : options_(std::move(options)) {
  ASHLAR_CHECK(options_.dtype == DType::kU16 || options_.dtype == DType::kU32);
  require(options_.dtype == DType::kU32 || options_.vocab_size <= 65536, ErrorCode::kRequest,
          "a vocabulary of {} tokens does not fit uint16: use uint32", options_.vocab_size);
  require(options_.shard_tokens > 0, ErrorCode::kRequest, "shard size must be positive");
}

ShardWriter::ShardWriter(Options options, State state) : ShardWriter(std::move(options)) {
  state_ = std::move(state);
  keeps_files_ = true;
  oldest_raw_ = state_.shards.size();
  for (const ShardInfo& shard : state_.shards) {
    require(fs::is_regular_file(options_.folder / shard.file), ErrorCode::kData,
            "{}: is missing, but its journal names it", (options_.folder / shard.file).string());
  }
  // What came after the checkpoint goes; it will be written again.
  std::vector<fs::path> later;
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.folder)) {
    const auto is_it = [&](const ShardInfo& s) { return entry.path().filename() == s.file; };
    const bool is_closed = std::any_of(state_.shards.begin(), state_.shards.end(), is_it);
    const bool is_current = entry.path() == raw_path("tokens", oldest_raw_) ||
                            entry.path() == raw_path("offsets", oldest_raw_);
    if (entry.is_regular_file() && !is_closed && !(is_current && state_.current.tokens > 0)) {
      later.push_back(entry.path());
    }
  }
  for (const fs::path& path : later) fs::remove(path);
  if (state_.current.tokens > 0) open_raw();
}

ShardWriter::~ShardWriter() {
  if (keeps_files_) return;
  raw_.reset();
  remove_raw(oldest_raw_, state_.shards.size() + 1);
}

fs::path ShardWriter::raw_path(const char* what, size_t shard) const {
  return options_.folder / fmt::format("{}-{:05}.raw.tmp", what, shard);
}

void ShardWriter::remove_raw(size_t from, size_t to) {
  std::error_code ignored;
  for (size_t shard = from; shard < to; ++shard) {
    fs::remove(raw_path("tokens", shard), ignored);
    fs::remove(raw_path("offsets", shard), ignored);
  }
}

void ShardWriter::open_raw() {
  const size_t shard = state_.shards.size();
  raw_ = std::make_unique<Raw>(Raw{
      GrowingFile(raw_path("tokens", shard), state_.current.tokens * dtype_bytes(options_.dtype)),
      GrowingFile(raw_path("offsets", shard), state_.current.documents * 8)});
}

void ShardWriter::append(std::span<const int32_t> ids) {
  const auto write_as = [&]<typename T>(T) {
    std::vector<T> narrow(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      ASHLAR_CHECK(ids[i] >= 0 && ids[i] < options_.vocab_size);
      narrow[i] = static_cast<T>(ids[i]);
    }
    raw_->tokens.append(std::as_bytes(std::span(narrow)));
  };
  if (options_.dtype == DType::kU16) {
    write_as(uint16_t{});
  } else {
    write_as(uint32_t{});
  }
  state_.current.tokens += static_cast<int64_t>(ids.size());
}

void ShardWriter::add(std::span<const int32_t> ids, int64_t source_bytes) {
  ShardInfo& current = state_.current;
  const auto length = static_cast<int64_t>(ids.size()) + 1;
  if (current.tokens > 0 && current.tokens + length > options_.shard_tokens) close_shard();
  if (raw_ == nullptr) open_raw();
  raw_->offsets.append(std::as_bytes(std::span(&current.tokens, 1)));
  append(ids);
  append(std::span(&options_.eos_id, 1));
  ++current.documents;
  current.source_bytes += source_bytes;
}

void ShardWriter::close_shard() {
  ShardInfo& current = state_.current;
  require(state_.shards.size() < 100000, ErrorCode::kRequest,
          "more than 100000 shards of {} tokens: raise the shard size", options_.shard_tokens);
  current.file = shard_name(state_.shards.size());
  const fs::path path = options_.folder / current.file;
  const fs::path temporary = path.string() + ".tmp";
  struct Remover {
    const fs::path& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove(path, ignored);  // gone already when all went well
    }
  } remover{temporary};

  H5File out = H5File::create(temporary);
  const auto stream = [&](const char* name, DType dtype, int64_t elements, GrowingFile& from) {
    H5Writer writer = out.stream(name, dtype, {elements});
    from.read(static_cast<size_t>(dtype_bytes(dtype)),
              [&](std::span<const std::byte> piece) { writer.append(piece); });
    writer.finish();
  };
  stream("data", options_.dtype, current.tokens, raw_->tokens);
  stream("document_offsets", DType::kI64, current.documents, raw_->offsets);
  out.set_attribute("", "format", std::string("ashlar-tokens-1"));
  out.set_attribute("", "vocabulary_sha256", options_.vocabulary_sha256);
  out.set_attribute("", "vocab_size", options_.vocab_size);
  out.set_attribute("", "eos_id", int64_t{options_.eos_id});
  out.set_attribute("", "documents", current.documents);
  out.set_attribute("", "source_bytes", current.source_bytes);
  out.set_attribute("", "tokens", current.tokens);
  out.close();
  sync_file(temporary);
  fs::rename(temporary, path);
  sync_folder(options_.folder);

  raw_.reset();
  state_.shards.push_back(std::exchange(current, {}));
  if (!keeps_files_) release();
}

ShardWriter::State ShardWriter::checkpoint() {
  keeps_files_ = true;
  if (raw_ != nullptr) {
    raw_->tokens.sync();
    raw_->offsets.sync();
    sync_folder(options_.folder);
  }
  return state_;
}

void ShardWriter::release() {
  remove_raw(oldest_raw_, state_.shards.size());
  oldest_raw_ = state_.shards.size();
}

std::vector<ShardInfo> ShardWriter::finish() {
  if (state_.current.tokens > 0) close_shard();
  return state_.shards;
}

}  // namespace ashlar

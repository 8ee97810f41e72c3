#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"

namespace ashlar {

/// What one HDF5 shard holds.
struct ShardInfo {
  std::string file;  ///< "data-00000.h5"
  int64_t tokens = 0;
  int64_t documents = 0;
  int64_t source_bytes = 0;
};

/// Writes token shards in the layout of Cerebras: `data-00000.h5`, ..., each with a rank-1
/// contiguous dataset `data` of uint16 or uint32, EOS after every document, and `document_offsets`
/// (int64, the first token of each document). A contiguous dataset cannot grow, so tokens go to a
/// temporary file until a shard is full; a shard appears under its name whole or not at all.
class ShardWriter {
 public:
  struct Options {
    std::filesystem::path folder;  ///< must exist
    DType dtype = DType::kU16;     ///< kU16 or kU32
    int64_t vocab_size = 0;
    int32_t eos_id = 0;
    std::string vocabulary_sha256;
    int64_t shard_tokens = int64_t{1} << 28;  ///< a shard is closed before it would exceed this
  };
  explicit ShardWriter(Options options);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// Appends a document and EOS; a longer document than `shard_tokens` gets a shard of its own.
  void add(std::span<const int32_t> ids, int64_t source_bytes);
  /// Closes the last shard and returns all of them.
  std::vector<ShardInfo> finish();

 private:
  void close_shard();
  void append(std::span<const int32_t> ids);

  Options options_;
  std::vector<ShardInfo> shards_;
  ShardInfo current_;
  std::vector<int64_t> offsets_;
  std::filesystem::path raw_path_;
  struct RawFile;
  std::unique_ptr<RawFile> raw_;
};

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "data/shards/growing_file.h"

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
/// (int64, the first token of each document). A contiguous dataset cannot grow, so tokens and
/// offsets go to `*.raw.tmp` files until a shard is full; a shard appears under its name whole or
/// not at all.
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
  /// Where writing stands: closed shards, and the one being collected.
  struct State {
    std::vector<ShardInfo> shards;
    ShardInfo current;
  };
  /// Throws Error(kRequest) when the vocabulary does not fit the dtype.
  explicit ShardWriter(Options options);
  /// Continues from what checkpoint() returned, in any process: what was written after it goes.
  /// Throws Error(kData) when the folder holds less than that.
  ShardWriter(Options options, State state);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// Appends a document and EOS; a longer document than `shard_tokens` gets a shard of its own.
  void add(std::span<const int32_t> ids, int64_t source_bytes);
  /// Makes everything so far durable. From the first call on, files of earlier checkpoints stay
  /// until release() or finish(), and the destructor leaves everything in place.
  State checkpoint();
  /// The state that checkpoint() returned is safe: files only older ones need go.
  void release();
  /// Closes the last shard and returns all of them.
  std::vector<ShardInfo> finish();

 private:
  struct Raw {
    GrowingFile tokens, offsets;
  };
  std::filesystem::path raw_path(const char* what, size_t shard) const;
  void open_raw();
  void close_shard();
  void append(std::span<const int32_t> ids);
  void remove_raw(size_t from, size_t to);

  Options options_;
  State state_;
  std::unique_ptr<Raw> raw_;
  size_t oldest_raw_ = 0;  ///< first shard whose raw files may still be there
  bool keeps_files_ = false;
};

}  // namespace ashlar

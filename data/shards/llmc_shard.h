#pragma once

#include <cstdint>
#include <filesystem>

#include "core/base/dtype.h"
#include "core/io/mapped_file.h"

// Private to data/shards and to what recognises files.

namespace ashlar {

/// A token shard of llm.c: 256 little-endian int32, of which the first three are magic, version and
/// number of tokens, then the tokens. Magic 20240520, version 1: uint16 (GPT-2); magic 20240801,
/// version 7: uint32 (Llama 3). It says neither vocabulary nor EOS.
struct LlmcShard {
  static constexpr int64_t kHeaderBytes = 1024;

  MappedFile mapping;
  DType dtype = DType::kU16;
  int64_t tokens = 0;

  /// Throws Error(kData) for a foreign magic or version, and a size that is not the header's.
  explicit LlmcShard(const std::filesystem::path& path);
};

/// True when the file begins with one of the magic numbers.
bool is_llmc_shard(const std::filesystem::path& path);

}  // namespace ashlar

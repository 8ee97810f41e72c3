#include "data/shards/llmc_shard.h"

#include <cstring>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int32_t kGpt2Magic = 20240520, kGpt2Version = 1;
constexpr int32_t kLlama3Magic = 20240801, kLlama3Version = 7;

int32_t word(const MappedFile& file, size_t index) {
  int32_t value = 0;
  std::memcpy(&value, file.bytes().data() + 4 * index, 4);
  return value;
}

}  // namespace

LlmcShard::LlmcShard(const std::filesystem::path& path) : mapping(path) {
  const auto size = static_cast<int64_t>(mapping.bytes().size());
  require(size >= kHeaderBytes, ErrorCode::kData, "{}: {} bytes are too few for llm.c's header",
          path.string(), size);
  const int32_t magic = word(mapping, 0), version = word(mapping, 1);
  require(magic == kGpt2Magic || magic == kLlama3Magic, ErrorCode::kData,
          "{}: is no token shard of llm.c (its magic is {})", path.string(), magic);
  const bool wide = magic == kLlama3Magic;
  require(version == (wide ? kLlama3Version : kGpt2Version), ErrorCode::kData,
          "{}: token shard of llm.c of unknown version {}", path.string(), version);
  dtype = wide ? DType::kU32 : DType::kU16;
  tokens = word(mapping, 2);
  require(tokens >= 0 && size == kHeaderBytes + tokens * dtype_bytes(dtype), ErrorCode::kData,
          "{}: its header says {} tokens of {}, but it holds {} bytes behind the header",
          path.string(), tokens, wide ? "uint32" : "uint16", size - kHeaderBytes);
}

bool is_llmc_shard(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  const MappedFile file(path);
  if (file.bytes().size() < static_cast<size_t>(LlmcShard::kHeaderBytes)) return false;
  return word(file, 0) == kGpt2Magic || word(file, 0) == kLlama3Magic;
}

}  // namespace ashlar

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/node.h"
#include "core/io/atomic_file.h"
#include "core/io/mapped_file.h"

// GGUF (github.com/ggml-org/ggml, docs/gguf.md): magic, version, typed metadata, tensor
// descriptions, then data at multiples of `general.alignment`. Versions 2 and 3, little endian.

namespace ashlar {

/// Element types, by their number in the file. Blocks hold 32 elements of a row, those of the
/// K-quants 256.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
};

/// Elements of a row that are stored together, and their bytes.
struct GgufTypeInfo {
  GgufType type;
  std::string_view name;  ///< such as "Q4_K"
  int64_t block;
  int64_t bytes;
};
const GgufTypeInfo& gguf_type_info(GgufType type);

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;  ///< row-major, outermost first: the file's `ne` reversed
  int64_t offset = 0;          ///< from the start of the data section
  int64_t bytes = 0;
};

/// A GGUF file opened for reading, checked against its real size before anything is allocated:
/// counts and lengths inside the file, known types, no key or name twice, aligned extents inside
/// the data, no overlap. Metadata are scalars, texts and flat lists of those. A 32-bit float reads
/// as the shortest decimal number that rounds to it, so that 1e-5 is 1e-5. Throws Error(kData)
/// naming the file, the key or tensor and the reason.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  /// A map in file order.
  const Node& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  ///< in file order
  /// nullptr when absent.
  const GgufTensor* find(const std::string& name) const;
  /// The bytes of a tensor inside the mapping.
  std::span<const std::byte> data(const GgufTensor& tensor) const;
  /// The mapping, for `hold`: whoever keeps a piece of data() keeps this.
  const std::shared_ptr<const MappedFile>& mapping() const { return file_; }
  const std::filesystem::path& path() const { return file_->path(); }

 private:
  void check_extents(size_t data_start, int64_t alignment);

  std::shared_ptr<const MappedFile> file_;
  size_t data_start_ = 0;
  Node metadata_ = Node::map();
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> by_name_;
};

/// True if the file begins with GGUF's magic.
bool is_gguf(const std::filesystem::path& path);

/// Typed metadata of a file to be written, in order.
class GgufMetadata {
 public:
  void u32(std::string_view key, int64_t value);  ///< 0…2^32−1
  void f32(std::string_view key, double value);
  void boolean(std::string_view key, bool value);
  void text(std::string_view key, std::string_view value);
  void texts(std::string_view key, std::span<const std::string> values);
  void i32s(std::string_view key, std::span<const int32_t> values);
  void f32s(std::string_view key, std::span<const float> values);

  const std::string& bytes() const { return bytes_; }
  int64_t count() const { return count_; }

 private:
  void begin(std::string_view key, uint32_t type);
  void begin_list(std::string_view key, uint32_t type, size_t count);

  std::string bytes_;
  int64_t count_ = 0;
};

/// Streams a GGUF file of version 3, aligned to 32, whole or not at all: declare metadata and
/// tensors (name, type, shape), then write the tensors' bytes in the same order.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             std::vector<GgufTensor> tensors);

  /// The tensors with offsets and bytes filled in.
  const std::vector<GgufTensor>& layout() const { return tensors_; }
  /// The next bytes of the current tensor of the layout: it, or a part that does not reach beyond
  /// it.
  void write_part(std::span<const std::byte> bytes);
  /// All bytes of the next tensor of the layout; the size must match.
  void write_next(std::span<const std::byte> bytes);
  /// Makes the file appear under its name; every tensor must have been written.
  void commit();

 private:
  void pad(int64_t written);

  AtomicFile file_;
  std::vector<GgufTensor> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  ///< of tensor next_
};

}  // namespace ashlar

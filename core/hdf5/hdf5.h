#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/base/dtype.h"

// HDF5 (1.10, serial) behind a few safe calls. Files are untrusted: every size that a file claims
// is held against the file's real length before memory is allocated, links that lead out of the
// file, external and virtual storage are refused, and the library's error stack becomes one line
// that names file and object. What we write carries checksums over its metadata, so accidental
// damage is found; libhdf5 itself is not hardened against a file forged in the pre-1.8 format,
// whose metadata has none. There is no bf16 or fp16 in HDF5: callers store the bits as kU16 with an
// attribute that says so.

namespace ashlar {

template <typename T>
constexpr DType h5_dtype() {
  if constexpr (std::is_same_v<T, std::byte> || std::is_same_v<T, uint8_t>) return DType::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return DType::kI8;
  if constexpr (std::is_same_v<T, uint16_t>) return DType::kU16;
  if constexpr (std::is_same_v<T, int16_t>) return DType::kI16;
  if constexpr (std::is_same_v<T, uint32_t>) return DType::kU32;
  if constexpr (std::is_same_v<T, int32_t>) return DType::kI32;
  if constexpr (std::is_same_v<T, uint64_t>) return DType::kU64;
  if constexpr (std::is_same_v<T, int64_t>) return DType::kI64;
  if constexpr (std::is_same_v<T, float>) return DType::kF32;
  if constexpr (std::is_same_v<T, double>) return DType::kF64;
}

/// What a dataset of a file is, checked against the file's real size.
struct H5Dataset {
  std::string name;  ///< path from the root, without a leading '/'
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;  ///< empty for a scalar
  int64_t elements = 0;
  int64_t bytes = 0;  ///< elements · dtype_bytes
  /// Where the raw little-endian elements lie in the file, when they lie in one piece: for mmap.
  std::optional<int64_t> offset;
};

/// Streams a dataset of known shape, whole rows (elements of the first dimension) at a time.
class H5Writer {
 public:
  ~H5Writer();
  H5Writer(H5Writer&&) noexcept;
  H5Writer& operator=(H5Writer&&) noexcept;

  /// Appends `bytes`, a multiple of one row; more rows than declared are an internal error.
  void append(std::span<const std::byte> bytes);
  template <typename T>
  void append(std::span<const T> values) {
    append(std::as_bytes(values));
  }
  /// Every declared row must have been written. Throws Error(kIo) when the disk refuses.
  void finish();

 private:
  friend class H5File;
  struct State;
  explicit H5Writer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// One HDF5 file, open for reading or being written. One H5File may be used by one thread at a
/// time; the library serialises different files (Debian builds it thread-safe; a build that is not
/// is refused). Do not use across fork().
class H5File {
 public:
  /// Opens for reading. A missing file is Error(kRequest), one that is not HDF5 or is truncated
  /// Error(kData).
  static H5File open(const std::filesystem::path& path);
  /// Creates a file for writing, replacing one of that name. Durability and atomicity are the
  /// caller's: write under a temporary name, close(), fsync, rename.
  static H5File create(const std::filesystem::path& path);
  ~H5File();
  H5File(H5File&&) noexcept;
  H5File& operator=(H5File&&) noexcept;

  /// Flushes and closes; throws Error(kIo) when that fails. The destructor closes silently.
  void close();
  const std::filesystem::path& path() const;

  /// Paths of all datasets below the root, sorted.
  std::vector<std::string> datasets() const;
  bool has_dataset(const std::string& name) const;
  /// Throws Error(kData) for a missing dataset, a foreign element type, or a size that the file
  /// cannot hold.
  H5Dataset dataset(const std::string& name) const;

  /// Rows [first, first + count) of the first dimension into `out` (exactly their bytes). The
  /// stored type must be `dtype`; a scalar has one row.
  void read_rows(const std::string& name, DType dtype, int64_t first, int64_t count,
                 std::span<std::byte> out) const;
  template <typename T>
  void read_rows(const std::string& name, int64_t first, int64_t count, std::span<T> out) const {
    read_rows(name, h5_dtype<T>(), first, count, std::as_writable_bytes(out));
  }
  /// A whole dataset, row-major.
  template <typename T>
  std::vector<T> read(const std::string& name) const {
    const H5Dataset info = expect(name, h5_dtype<T>());
    std::vector<T> values(static_cast<size_t>(info.elements));
    read_rows<T>(name, 0, info.shape.empty() ? 1 : info.shape[0], std::span<T>(values));
    return values;
  }

  /// Writes a contiguous dataset; groups in `name` ("optimizer/m") are made as needed.
  void write(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
             std::span<const std::byte> bytes);
  template <typename T>
  void write(const std::string& name, const std::vector<int64_t>& shape,
             std::span<const T> values) {
    write(name, h5_dtype<T>(), shape, std::as_bytes(values));
  }
  /// Creates a contiguous, unfilled dataset of rank ≥ 1 to be streamed. Finish the writer before
  /// close().
  H5Writer stream(const std::string& name, DType dtype, const std::vector<int64_t>& shape);

  // Attributes of a dataset or group ("" is the root). Readers throw Error(kData) when the
  // attribute is missing or of another kind. Text is UTF-8.
  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  bool has_attribute(const std::string& object, const std::string& name) const;
  int64_t integer_attribute(const std::string& object, const std::string& name) const;
  double number_attribute(const std::string& object, const std::string& name) const;
  std::string text_attribute(const std::string& object, const std::string& name) const;

 private:
  struct State;
  explicit H5File(std::unique_ptr<State> state);
  H5Dataset expect(const std::string& name, DType dtype) const;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar

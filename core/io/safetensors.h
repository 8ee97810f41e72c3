#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/io/atomic_file.h"
#include "core/io/mapped_file.h"

// safetensors: u64 header length, JSON header, data without holes. Writers here pad the header so
// that data starts at a multiple of 64; readers accept any alignment.

namespace ashlar {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t offset = 0;  ///< from the start of the data section
  int64_t bytes = 0;
};

/// A safetensors file opened for reading, its header fully checked against the file's real size:
/// every extent inside the data, sizes equal to shape × dtype, no overlap and no hole.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  ///< in offset order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// nullptr when absent.
  const TensorInfo* find(const std::string& name) const;
  /// The bytes of a tensor inside the mapping; copy them, do not keep the span.
  std::span<const std::byte> data(const TensorInfo& tensor) const;
  const std::filesystem::path& path() const { return file_.path(); }
  const MappedFile& mapping() const { return file_; }

 private:
  MappedFile file_;
  size_t data_start_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

/// Streams a safetensors file: declare all tensors, then write their bytes in the order
/// `layout()` returns. Tensors whose size is a multiple of 64 come first, so that they are aligned.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata);

  /// The tensors in the order their bytes must be written, offsets filled in.
  const std::vector<TensorInfo>& layout() const { return tensors_; }
  /// Bytes of the next tensor of the layout; the size must match.
  void write_next(std::span<const std::byte> bytes);
  /// Makes the file appear under its name; every tensor must have been written.
  void commit();

 private:
  AtomicFile file_;
  std::vector<TensorInfo> tensors_;
  size_t next_ = 0;
};

}  // namespace ashlar

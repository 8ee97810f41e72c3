#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "core/hdf5/hdf5.h"
#include "core/io/mapped_file.h"

// Private to data/shards.

namespace ashlar {

/// One shard file, mapped when something in it can be read that way.
struct ShardFile {
  H5File hdf5;
  MappedFile mapping;
  mutable std::mutex mutex;  ///< one thread at a time inside `hdf5`

  explicit ShardFile(const std::filesystem::path& path) : hdf5(H5File::open(path)), mapping(path) {}
};

/// Integers of a shard read as int32, from a mapping or through HDF5. Rows of higher rank are read
/// as their flattened elements.
class Column {
 public:
  /// Throws Error(kData) unless the dataset holds integers.
  Column(const ShardFile& file, const std::string& name);
  /// `elements` integers that lie in a mapped file from byte `offset` on.
  Column(const MappedFile& mapping, DType dtype, int64_t offset, int64_t elements);
  const H5Dataset& info() const { return info_; }
  /// Rows [first, first + count) of the first dimension. Throws Error(kData) for a value that does
  /// not fit int32.
  void read(int64_t first, int64_t count, std::span<int32_t> out) const;

 private:
  const ShardFile* file_ = nullptr;  ///< null: only the mapping
  const MappedFile& mapping_;
  H5Dataset info_;
  int64_t row_elements_ = 1;
};

}  // namespace ashlar

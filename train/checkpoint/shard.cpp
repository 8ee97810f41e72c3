#include "train/checkpoint/shard.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/hdf5/hdf5.h"
#include "core/io/atomic_file.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

// The HDF5 library has one lock for all files. Giving it back between slices of this many elements
// lets the training thread read its data meanwhile.
constexpr int64_t kSlice = int64_t{1} << 20;

void write_dataset(H5File& file, const std::string& name, const std::vector<int64_t>& shape,
                   std::span<const float> values) {
  const auto count = static_cast<int64_t>(values.size());
  if (shape.empty() || count <= kSlice) {
    file.write<float>(name, shape, values);
    return;
  }
  H5Writer writer = file.stream(name, DType::kF32, shape);
  const int64_t row = count / shape[0];
  const int64_t step = row * std::max<int64_t>(1, kSlice / row);
  for (int64_t at = 0; at < count; at += step) {
    writer.append(
        values.subspan(static_cast<size_t>(at), static_cast<size_t>(std::min(step, count - at))));
  }
  writer.finish();
}

void write_piece(H5File& file, const TensorPiece& piece) {
  const int64_t whole = checked_numel(piece.shape, piece.name.c_str());
  const auto count = static_cast<int64_t>(piece.values.size());
  ASHLAR_CHECK_GE(piece.first, 0);
  ASHLAR_CHECK_LE(count, whole);
  ASHLAR_CHECK_LE(piece.first, whole - count);
  if (count == whole) return write_dataset(file, piece.name, piece.shape, piece.values);
  if (count == 0) return;
  const std::string dataset = fmt::format("{}@{}", piece.name, piece.first);
  write_dataset(file, dataset, {count}, piece.values);
  file.set_attribute(dataset, "first", piece.first);
  file.set_attribute(dataset, "shape", fmt::format("{}", fmt::join(piece.shape, ",")));
}

// Removes the file of an attempt that did not get its final name.
struct TemporaryFile {
  fs::path path;
  ~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
};

}  // namespace

std::string rank_file_name(int64_t rank) { return fmt::format("rank_{:05}.h5", rank); }

CheckpointManifest::File write_shard(const fs::path& folder, int64_t rank,
                                     std::span<const TensorPiece> pieces) {
  const std::string name = rank_file_name(rank);
  const TemporaryFile temporary{folder / (name + ".tmp")};
  {
    H5File file = H5File::create(temporary.path);
    for (const TensorPiece& piece : pieces) write_piece(file, piece);
    file.close();
  }
  sync_file(temporary.path);
  std::error_code error;
  const auto bytes = fs::file_size(temporary.path, error);
  require(!error, ErrorCode::kIo, "{}: {}", temporary.path.string(), error.message());
  CheckpointManifest::File out{name, checked_cast<int64_t>(bytes, "file size"),
                               sha256_file(temporary.path)};
  fs::rename(temporary.path, folder / name, error);
  require(!error, ErrorCode::kIo, "{}: {}", (folder / name).string(), error.message());
  sync_folder(folder);
  return out;
}

}  // namespace ashlar

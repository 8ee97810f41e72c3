#include "data/shards/column.h"

#include <cstring>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace ashlar {
namespace {

template <typename T>
void widen(const std::byte* from, std::span<int32_t> out, const std::string& where) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    require(std::in_range<int32_t>(value), ErrorCode::kData, "{}: value {} is out of range", where,
            value);
    out[i] = static_cast<int32_t>(value);
  }
}

void widen(DType dtype, const std::byte* from, std::span<int32_t> out, const std::string& where) {
  switch (dtype) {
    case DType::kU8:
      return widen<uint8_t>(from, out, where);
    case DType::kI8:
      return widen<int8_t>(from, out, where);
    case DType::kU16:
      return widen<uint16_t>(from, out, where);
    case DType::kI16:
      return widen<int16_t>(from, out, where);
    case DType::kU32:
      return widen<uint32_t>(from, out, where);
    case DType::kI32:
      return widen<int32_t>(from, out, where);
    case DType::kI64:
      return widen<int64_t>(from, out, where);
    case DType::kU64:
      return widen<uint64_t>(from, out, where);
    default:
      fail(ErrorCode::kData, "{}: holds {}, expected integers", where, dtype_name(dtype));
  }
}

}  // namespace

Column::Column(const ShardFile& file, const std::string& name)
    : file_(&file), mapping_(file.mapping), info_(file.hdf5.dataset(name)) {
  const std::string where = file.hdf5.path().string() + ": dataset '" + name + "'";
  widen(info_.dtype, nullptr, {}, where);
  require(!info_.shape.empty(), ErrorCode::kData, "{}: is a scalar", where);
  row_elements_ = info_.shape[0] == 0 ? 0 : info_.elements / info_.shape[0];
}

Column::Column(const MappedFile& mapping, DType dtype, int64_t offset, int64_t elements)
    : mapping_(mapping),
      info_{"tokens", dtype, {elements}, elements, elements * dtype_bytes(dtype), offset},
      row_elements_(1) {
  ASHLAR_CHECK_LE(offset + info_.bytes, static_cast<int64_t>(mapping.bytes().size()));
}

void Column::read(int64_t first, int64_t count, std::span<int32_t> out) const {
  ASHLAR_CHECK(first >= 0 && count >= 0 && first + count <= info_.shape[0]);
  ASHLAR_CHECK_EQ(static_cast<int64_t>(out.size()), count * row_elements_);
  const int64_t row_bytes = row_elements_ * dtype_bytes(info_.dtype);
  const std::string where = mapping_.path().string() + ": dataset '" + info_.name + "'";
  if (info_.offset) {
    const std::byte* data = mapping_.bytes().data() + *info_.offset + first * row_bytes;
    return widen(info_.dtype, data, out, where);
  }
  std::vector<std::byte> raw(static_cast<size_t>(count * row_bytes));
  {
    const std::lock_guard lock(file_->mutex);
    file_->hdf5.read_rows(info_.name, info_.dtype, first, count, raw);
  }
  widen(info_.dtype, raw.data(), out, where);
}

}  // namespace ashlar

#include "core/base/dtype.h"

#include <array>

#include "core/base/error.h"

namespace ashlar {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};

constexpr std::array<Entry, 13> kTable = {{{DType::kBool, "BOOL", 1},
                                           {DType::kU8, "U8", 1},
                                           {DType::kI8, "I8", 1},
                                           {DType::kU16, "U16", 2},
                                           {DType::kI16, "I16", 2},
                                           {DType::kF16, "F16", 2},
                                           {DType::kBF16, "BF16", 2},
                                           {DType::kU32, "U32", 4},
                                           {DType::kI32, "I32", 4},
                                           {DType::kF32, "F32", 4},
                                           {DType::kU64, "U64", 8},
                                           {DType::kI64, "I64", 8},
                                           {DType::kF64, "F64", 8}}};

}  // namespace

int64_t dtype_bytes(DType dtype) { return kTable[static_cast<size_t>(dtype)].bytes; }

std::string_view dtype_name(DType dtype) { return kTable[static_cast<size_t>(dtype)].name; }

DType dtype_from_name(std::string_view name) {
  for (const Entry& entry : kTable) {
    if (entry.name == name) return entry.dtype;
  }
  fail(ErrorCode::kData, "unknown element type '{}'", name);
}

}  // namespace ashlar

#include "train/dist/rank_order.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"

namespace ashlar {
namespace {

// Elements at a time: the sums stay in the first-level cache while the ranks are added.
constexpr int64_t kTile = 1024;

template <typename T>
struct Plain {
  using Stored = T;
  using Sum = T;
  static Sum load(T value) { return value; }
  static T store(Sum value) { return value; }
};

struct Bfloat {
  using Stored = uint16_t;
  using Sum = float;
  static float load(uint16_t value) { return bfloat_to_float(value); }
  static uint16_t store(float value) { return float_to_bfloat(value); }
};

struct Sum {
  template <typename T>
  static T of(T a, T b) {
    return static_cast<T>(a + b);
  }
};

// NaN wins in both, so that a broken value cannot hide behind a sound one.
struct Max {
  template <typename T>
  static T of(T a, T b) {
    return a > b || a != a ? a : b;
  }
};

struct Min {
  template <typename T>
  static T of(T a, T b) {
    return a < b || a != a ? a : b;
  }
};

template <typename Type, typename Op>
void reduce(std::span<const void* const> in, void* out, int64_t count) {
  using Stored = typename Type::Stored;
  std::array<typename Type::Sum, kTile> sums;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t n = std::min(kTile, count - begin);
    const Stored* first = static_cast<const Stored*>(in[0]) + begin;
    for (int64_t i = 0; i < n; ++i) sums[i] = Type::load(first[i]);
    for (const void* input : in.subspan(1)) {
      const Stored* values = static_cast<const Stored*>(input) + begin;
      for (int64_t i = 0; i < n; ++i) sums[i] = Op::of(sums[i], Type::load(values[i]));
    }
    Stored* result = static_cast<Stored*>(out) + begin;
    for (int64_t i = 0; i < n; ++i) result[i] = Type::store(sums[i]);
  }
}

template <typename Op>
void reduce_type(std::span<const void* const> in, void* out, int64_t count, DType type) {
  switch (type) {
    case DType::kF32:
      return reduce<Plain<float>, Op>(in, out, count);
    case DType::kBF16:
      return reduce<Bfloat, Op>(in, out, count);
    case DType::kF64:
      return reduce<Plain<double>, Op>(in, out, count);
    case DType::kI64:
      return reduce<Plain<int64_t>, Op>(in, out, count);
    default:
      return reduce<Plain<uint8_t>, Op>(in, out, count);
  }
}

}  // namespace

void check_collective_type(DType type) {
  if (type == DType::kF32 || type == DType::kBF16 || type == DType::kF64 || type == DType::kI64 ||
      type == DType::kU8) {
    return;
  }
  fail(ErrorCode::kInternal, "collectives carry F32, BF16, F64, I64 and U8, not {}",
       dtype_name(type));
}

void check_reduction(DType type, ReduceOp op) {
  check_collective_type(type);
  require(type != DType::kU8 || op != ReduceOp::kSum, ErrorCode::kInternal,
          "U8 is not summed over ranks: it would overflow");
}

void reduce_in_order(std::span<const void* const> in, void* out, int64_t count, DType type,
                     ReduceOp op) {
  check_reduction(type, op);
  switch (op) {
    case ReduceOp::kSum:
      return reduce_type<Sum>(in, out, count, type);
    case ReduceOp::kMax:
      return reduce_type<Max>(in, out, count, type);
    case ReduceOp::kMin:
      return reduce_type<Min>(in, out, count, type);
  }
}

}  // namespace ashlar

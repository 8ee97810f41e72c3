#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "attention/row_kernels.h"
#include "core/base/error.h"

// How torch tensors reach the row kernels: element types, pointers, tasks.

namespace ashlar {

// Rows per task. Fixed, so that partial sums do not depend on the number of threads.
inline constexpr int64_t kRowsPerTask = 64;

inline at::ScalarType accumulate_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// at::BFloat16 and rows::Bf16 are the same two bytes.
template <typename T>
struct RowType {
  using Type = T;
};
template <>
struct RowType<at::BFloat16> {
  using Type = rows::Bf16;
};

template <typename T>
T* data(const at::Tensor& t) {
  if constexpr (std::is_same_v<T, rows::Bf16>) {
    return reinterpret_cast<T*>(t.data_ptr<at::BFloat16>());
  } else {
    return t.data_ptr<T>();
  }
}

// Calls body(T{}) with the row-kernel type of `type`.
template <typename Body>
void dispatch(at::ScalarType type, const Body& body) {
  switch (type) {
    case at::kFloat:
      return body(float{});
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(rows::Bf16{});
    default:
      fail(ErrorCode::kInternal, "no training kernel for dtype {}", c10::toString(type));
  }
}

template <typename Body>
void for_row_tasks(int64_t rows, const Body& body) {
  const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kRowsPerTask;
      body(task, first, std::min(kRowsPerTask, rows - first));
    }
  });
}

}  // namespace ashlar

#pragma once

#include <cstdint>
#include <span>

#include "core/base/dtype.h"
#include "core/comm/communicator.h"

namespace ashlar {

/// `out` [count] = in[0] op in[1] op …, every element in that order, whatever its place: the result
/// depends on the values alone, never on how they were cut into buffers. BF16 is summed in float
/// and rounded once. `out` may be one of the inputs. Types: F32, BF16, F64, I64, U8 (max and min
/// only).
void reduce_in_order(std::span<const void* const> in, void* out, int64_t count, DType type,
                     ReduceOp op);

/// Throws Error(kInternal) for a type that collectives do not carry or cannot reduce.
void check_collective_type(DType type);
void check_reduction(DType type, ReduceOp op);

}  // namespace ashlar

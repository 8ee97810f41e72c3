#pragma once

#include <cstdint>
#include <exception>

// What tensors in host memory take. No torch in this header.

namespace ashlar {

struct MemoryUse {
  int64_t current = 0;  ///< bytes of tensors now
  int64_t peak = 0;     ///< most since the last reset_memory_peak()
};

/// Puts counters around torch's allocator of host memory, once per process; tensors made before are
/// not counted. Counted is what the C library hands out, its rounding included: a few atomic
/// operations per tensor. Buffers of other libraries (Gloo, HDF5) and of the standard containers
/// are not tensors.
void count_memory();
MemoryUse memory_use();
void reset_memory_peak();

/// From now on an allocation that would take the count beyond `bytes` throws Error(kResource)
/// instead; 0: no limit. Implies count_memory().
void limit_memory(int64_t bytes);

/// Whether an exception says that memory ran out: Error(kResource), std::bad_alloc, or what torch
/// throws when its allocators fail.
bool out_of_memory(const std::exception& error);

}  // namespace ashlar

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace ashlar {

/// Where weights and cache chunks live. One provider, one budget: so weights and KV share it.
class MemoryProvider {
 public:
  virtual ~MemoryProvider() = default;
  /// `bytes` > 0, 64-byte aligned (2 MiB when larger than that). Throws Error(kResource) when the
  /// budget or the machine is exhausted.
  virtual std::byte* allocate(int64_t bytes) = 0;
  virtual void release(std::byte* memory) = 0;
  /// Counts `delta` bytes of tables that live on the heap as handed out (or, negative, no longer).
  /// Never fails: who wants to grow asks with require_room first.
  virtual void count(int64_t delta) = 0;
  /// Throws Error(kResource) unless the budget has room for `bytes` more.
  virtual void require_room(int64_t bytes) const = 0;
  /// Bytes handed out and not yet released, counted ones included.
  virtual int64_t bytes_in_use() const = 0;
};

/// Anonymous host memory, huge pages asked for. `budget` in bytes, 0: unlimited.
std::unique_ptr<MemoryProvider> make_host_memory(int64_t budget = 0);

}  // namespace ashlar

#include "train/memory_use.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <new>
#include <string_view>

#include "core/base/error.h"

namespace ashlar {
namespace {

std::atomic<int64_t> current{0}, peak{0}, limit{0};

void raise_peak(int64_t now) {
  int64_t before = peak.load(std::memory_order_relaxed);
  while (before < now && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
  }
}

// The C library knows how large its pieces are, so that nothing has to be kept beside them.
int64_t size_of(void* memory) { return static_cast<int64_t>(malloc_usable_size(memory)); }

void release(void* memory) {
  if (memory == nullptr) return;
  current.fetch_sub(size_of(memory), std::memory_order_relaxed);
  c10::free_cpu(memory);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const int64_t most = limit.load(std::memory_order_relaxed);
    const int64_t now = current.load(std::memory_order_relaxed);
    require(most == 0 || static_cast<int64_t>(bytes) <= most - now, ErrorCode::kResource,
            "train.memory_limit: {} bytes more would pass the limit of {}: tensors take {}", bytes,
            most, now);
    void* memory = c10::alloc_cpu(bytes);
    if (memory != nullptr) {
      const int64_t taken = size_of(memory);
      raise_peak(current.fetch_add(taken, std::memory_order_relaxed) + taken);
    }
    return {memory, memory, &release, c10::Device(c10::DeviceType::CPU)};
  }
  // Libraries under torch allocate without a DataPtr.
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override {
    std::memcpy(to, from, count);
  }
};

}  // namespace

void count_memory() {
  static std::once_flag once;
  std::call_once(once, [] {
    static CountingAllocator allocator;
    c10::SetCPUAllocator(&allocator, /*priority=*/1);
  });
}

MemoryUse memory_use() {
  return {current.load(std::memory_order_relaxed), peak.load(std::memory_order_relaxed)};
}

void reset_memory_peak() {
  peak.store(current.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void limit_memory(int64_t bytes) {
  ASHLAR_CHECK(bytes >= 0);
  count_memory();
  limit.store(bytes, std::memory_order_relaxed);
}

bool out_of_memory(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error)) {
    return own->code() == ErrorCode::kResource;
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  // The host allocator throws no type of its own (c10/core/impl/alloc_cpu.cpp).
  return std::string_view(error.what()).find("can't allocate memory") != std::string_view::npos;
}

}  // namespace ashlar

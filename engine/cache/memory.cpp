#include "engine/cache/memory.h"

#include <sys/mman.h>

#include <map>
#include <mutex>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSmallPage = 4096;

class HostMemory final : public MemoryProvider {
 public:
  explicit HostMemory(int64_t budget) : budget_(budget) {}
  ~HostMemory() override {
    for (const auto& [memory, bytes] : blocks_) ::munmap(memory, static_cast<size_t>(bytes));
  }

  std::byte* allocate(int64_t bytes) override {
    ASHLAR_CHECK_GT(bytes, 0);
    const int64_t size = round_up(bytes, bytes >= kHugePage ? kHugePage : kSmallPage);
    const std::lock_guard lock(mutex_);
    check_room(size);
    // Ask for one huge page more than needed, then give the unaligned ends back.
    const int64_t slack = size >= kHugePage ? kHugePage : 0;
    void* raw = ::mmap(nullptr, static_cast<size_t>(size + slack), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(raw != MAP_FAILED, ErrorCode::kResource, "the machine has no {} bytes left", size);
    auto* base = static_cast<std::byte*>(raw);
    if (slack != 0) {
      const auto address = reinterpret_cast<uintptr_t>(base);
      const auto lead = static_cast<int64_t>((kHugePage - address % kHugePage) % kHugePage);
      if (lead > 0) ::munmap(base, static_cast<size_t>(lead));
      if (lead < slack) ::munmap(base + lead + size, static_cast<size_t>(slack - lead));
      base += lead;
      ::madvise(base, static_cast<size_t>(size), MADV_HUGEPAGE);
    }
    blocks_[base] = size;
    in_use_ += size;
    return base;
  }

  void release(std::byte* memory) override {
    const std::lock_guard lock(mutex_);
    const auto it = blocks_.find(memory);
    ASHLAR_CHECK(it != blocks_.end());
    ::munmap(memory, static_cast<size_t>(it->second));
    in_use_ -= it->second;
    blocks_.erase(it);
  }

  void count(int64_t delta) override {
    const std::lock_guard lock(mutex_);
    in_use_ += delta;
    ASHLAR_CHECK_GE(in_use_, 0);
  }

  void require_room(int64_t bytes) const override {
    const std::lock_guard lock(mutex_);
    check_room(bytes);
  }

  int64_t bytes_in_use() const override {
    const std::lock_guard lock(mutex_);
    return in_use_;
  }

 private:
  void check_room(int64_t bytes) const {
    require(budget_ == 0 || bytes <= budget_ - in_use_, ErrorCode::kResource,
            "memory budget of {} bytes is exhausted: {} in use, {} more needed", budget_, in_use_,
            bytes);
  }

  const int64_t budget_;
  mutable std::mutex mutex_;
  std::map<std::byte*, int64_t> blocks_;
  int64_t in_use_ = 0;
};

}  // namespace

std::unique_ptr<MemoryProvider> make_host_memory(int64_t budget) {
  return std::make_unique<HostMemory>(budget);
}

}  // namespace ashlar

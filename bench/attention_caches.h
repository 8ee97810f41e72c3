#pragma once

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/attention_reference.h"
#include "core/base/error.h"
#include "core/base/threads.h"
#include "kernels/kv_zip.h"

// What bench/attention.cpp attends to: many sequences of one length, larger than any cache of the
// processor.

namespace ashlar {

struct Shape {
  int64_t kv_heads, group, dim;
  std::string name() const { return fmt::format("{} x {} x {}", kv_heads, group, dim); }
};

/// Memory of huge pages where the system gives them, touched.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(static_cast<size_t>(bytes) + (size_t{2} << 20)) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(p != MAP_FAILED, ErrorCode::kResource, "no memory for {} bytes", bytes_);
    madvise(p, bytes_, MADV_HUGEPAGE);
    std::memset(p, 0, bytes_);
    base_ = static_cast<std::byte*>(p);
  }
  ~Memory() { munmap(base_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::byte* data() const { return base_; }

 private:
  size_t bytes_;
  std::byte* base_;
};

std::vector<float> normals(int64_t n, uint64_t seed);

/// What a step collects beside outputs: sums of probabilities per slot, of all KV heads of a
/// sequence together, as a policy sees them whose heads keep the same rows, or of each apart.
enum class Collect { kNothing, kTogether, kByHead };

/// Sequences of `slots` entries and a raw one each, and a decode step over all.
class BenchCache {
 public:
  BenchCache(const Shape& shape, int64_t slots);
  virtual ~BenchCache() = default;

  int64_t sequences() const { return sequences_; }
  virtual double bytes() const = 0;
  double step(const Clock& clock, ThreadPool& pool, Collect collect);
  /// The last sequence's first and last head against double; after a step.
  virtual void check() = 0;

 protected:
  virtual KvHeadView view(int64_t sequence, int64_t head) const = 0;
  AttentionTask task(int64_t sequence, int64_t head, Collect collect = Collect::kNothing);
  void set_sequences(int64_t sequences);
  void add_raw(KvHeadView& kv) const;

  Shape shape_;
  int64_t slots_;

 private:
  int64_t sequences_ = 0;
  std::vector<float> q_, out_;
  std::vector<uint32_t> scores_;  // [sequences, KV heads, 2, slots]
  std::unique_ptr<Memory> scratch_;
  int64_t scratch_size_ = 0;
};

/// In pages of one codec, `gib` of them in all.
class RowCache final : public BenchCache {
 public:
  RowCache(const Shape& s, CodecKind codec, double gib, int64_t slots, int64_t page_rows,
           const Memory& memory);
  double bytes() const override {
    return static_cast<double>(sequences() * pages_ * kv_page_bytes(page_));
  }
  void check() override;

 private:
  KvHeadView view(int64_t sequence, int64_t head) const override;

  KvPageShape page_;
  int64_t pages_ = 0;
  std::vector<const std::byte*> table_;
};

/// In segments of ZipCache of `every` rows, 60 % of them salient.
class SegmentCache final : public BenchCache {
 public:
  SegmentCache(const Shape& s, int64_t every, double gib, int64_t slots, int64_t page_rows,
               const Memory& memory);
  double bytes() const override {
    return static_cast<double>(sequences() * shape_.kv_heads * each_);
  }
  void check() override;

 private:
  KvHeadView view(int64_t sequence, int64_t head) const override;
  void encode(std::byte* at);

  ZipShape zip_;
  int64_t every_, page_rows_;
  int64_t each_ = 0;  // bytes of one head of one sequence
  std::vector<const std::byte*> table_;
  std::vector<KvRun> runs_;  // of all sequences and heads
  int64_t runs_each_ = 0;
};

}  // namespace ashlar

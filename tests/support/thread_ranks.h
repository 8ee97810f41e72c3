#pragma once

#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/comm/communicator.h"

// Ranks as threads of one process: collectives in the order of ranks, for tests of what is built on
// them.

namespace ashlar::test {

/// Where the ranks of one communicator meet.
class MeetingPoint {
 public:
  explicit MeetingPoint(int64_t size) : size_(size), posts_(static_cast<size_t>(size)) {}
  int64_t size() const { return size_; }

  /// Posts `value`, waits for all, calls `read` with everybody's, waits until all have read.
  void meet(int64_t rank, void* value, const std::function<void(const std::vector<void*>&)>& read) {
    posts_[static_cast<size_t>(rank)] = value;
    wait();
    read(posts_);
    wait();
  }

 private:
  void wait() {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::seconds(60),
                                  [&] { return round_ != round; })) {
      fail(ErrorCode::kInternal, "a rank did not come to a collective");
    }
  }

  int64_t size_;
  std::vector<void*> posts_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t arrived_ = 0, round_ = 0;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(int64_t rank, std::shared_ptr<MeetingPoint> point)
      : rank_(rank), point_(std::move(point)) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return point_->size(); }

  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    const auto bytes = static_cast<size_t>(count * dtype_bytes(type));
    std::vector<std::byte> sum(bytes);
    point_->meet(rank_, data, [&](const std::vector<void*>& all) {
      reduce(all, 0, sum.data(), count, type, op);
    });
    // All have read: the barrier inside meet() is behind the reading.
    std::memcpy(data, sum.data(), bytes);
    return finished();
  }
  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    point_->meet(rank_, const_cast<void*>(in), [&](const std::vector<void*>& all) {
      reduce(all, rank_ * count * dtype_bytes(type), out, count, type, op);
    });
    return finished();
  }
  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    const auto bytes = static_cast<size_t>(count * dtype_bytes(type));
    point_->meet(rank_, const_cast<void*>(in), [&](const std::vector<void*>& all) {
      for (size_t r = 0; r < all.size(); ++r) {
        std::memcpy(static_cast<std::byte*>(out) + r * bytes, all[r], bytes);
      }
    });
    return finished();
  }
  std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                      int64_t root) override {
    std::vector<std::byte> copy(static_cast<size_t>(count * dtype_bytes(type)));
    point_->meet(rank_, data, [&](const std::vector<void*>& all) {
      std::memcpy(copy.data(), all[static_cast<size_t>(root)], copy.size());
    });
    std::memcpy(data, copy.data(), copy.size());
    return finished();
  }
  void barrier() override {
    point_->meet(rank_, nullptr, [](const auto&) {});
  }
  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks, const std::string&) override {
    // The first of a group makes its meeting point.
    std::shared_ptr<MeetingPoint> own;
    if (ranks[0] == rank_) own = std::make_shared<MeetingPoint>(static_cast<int64_t>(ranks.size()));
    std::shared_ptr<MeetingPoint> taken;
    point_->meet(rank_, &own, [&](const std::vector<void*>& all) {
      taken = *static_cast<std::shared_ptr<MeetingPoint>*>(all[static_cast<size_t>(ranks[0])]);
    });
    int64_t index = 0;
    while (ranks[static_cast<size_t>(index)] != rank_) ++index;
    return std::make_unique<ThreadCommunicator>(index, taken);
  }

 private:
  struct Finished : CommWork {
    bool done() override { return true; }
    void wait() override {}
  };
  static std::unique_ptr<CommWork> finished() { return std::make_unique<Finished>(); }

  static float from_bf16(uint16_t bits) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  static uint16_t to_bf16(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }

  static void reduce(const std::vector<void*>& all, int64_t offset, void* out, int64_t count,
                     DType type, ReduceOp op) {
    ASHLAR_CHECK(op == ReduceOp::kSum);
    const auto source = [&](size_t r) { return static_cast<std::byte*>(all[r]) + offset; };
    for (int64_t i = 0; i < count; ++i) {
      if (type == DType::kF32) {
        float sum = reinterpret_cast<const float*>(source(0))[i];
        for (size_t r = 1; r < all.size(); ++r) sum += reinterpret_cast<const float*>(source(r))[i];
        static_cast<float*>(out)[i] = sum;
      } else {
        ASHLAR_CHECK(type == DType::kBF16);
        float sum = from_bf16(reinterpret_cast<const uint16_t*>(source(0))[i]);
        for (size_t r = 1; r < all.size(); ++r) {
          sum =
              from_bf16(to_bf16(sum + from_bf16(reinterpret_cast<const uint16_t*>(source(r))[i])));
        }
        static_cast<uint16_t*>(out)[i] = to_bf16(sum);
      }
    }
  }

  int64_t rank_;
  std::shared_ptr<MeetingPoint> point_;
};

/// Calls body(communicator) on `size` threads and rethrows the first error.
inline void run_ranks(int64_t size, const std::function<void(Communicator&)>& body) {
  const auto point = std::make_shared<MeetingPoint>(size);
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  for (int64_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        ThreadCommunicator communicator(r, point);
        body(communicator);
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace ashlar::test

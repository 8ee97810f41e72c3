#include "core/base/threads.h"

#include <system_error>

#include "core/base/cpu.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

// Decode steps issue hundreds of short parallel loops per token: a worker polls this often before
// it sleeps in the kernel, about 20 µs.
constexpr int kSpins = 4000;

inline void pause() { __builtin_ia32_pause(); }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  require(threads >= 0 && threads <= 4096, ErrorCode::kRequest,
          "threads: {} is not between 1 and 4096", threads);
  if (threads == 0) threads = cpu_features().cores;
  workers_.reserve(static_cast<size_t>(threads) - 1);
  try {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { work(t); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size();
    join();
    fail(ErrorCode::kResource, "cannot start {} threads, only {}: {}", threads, started + 1,
         error.what());
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::drain(int thread) {
  try {
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) return;
      (*task_)(i, thread);
    }
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = generation_.load(std::memory_order_acquire);
    for (int spin = 0; now == seen && spin < kSpins; ++spin) {
      pause();
      now = generation_.load(std::memory_order_acquire);
    }
    while (now == seen) {
      generation_.wait(seen, std::memory_order_acquire);
      now = generation_.load(std::memory_order_acquire);
    }
    seen = now;
    if (stop_.load(std::memory_order_relaxed)) return;
    drain(thread);
    if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) active_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t count, IndexTask task) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  ASHLAR_CHECK(task_ == nullptr);
  count_ = count;
  task_ = &task;
  next_.store(0, std::memory_order_relaxed);
  active_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  drain(0);
  int left = active_.load(std::memory_order_acquire);
  for (int spin = 0; left != 0 && spin < kSpins; ++spin) {
    pause();
    left = active_.load(std::memory_order_acquire);
  }
  while (left != 0) {
    active_.wait(left, std::memory_order_acquire);
    left = active_.load(std::memory_order_acquire);
  }
  task_ = nullptr;
  if (error_) {
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

}  // namespace ashlar

#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace ashlar {

/// A non-owning reference to a callable `void(int64_t index, int thread)`; cheaper than
/// std::function and never allocates.
class IndexTask {
 public:
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, IndexTask>)
      IndexTask(F&& f)  // NOLINT(google-explicit-constructor): a parameter type, as function_ref
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, int64_t index, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(object))(index, thread);
        }) {}
  void operator()(int64_t index, int thread) const { call_(object_, index, thread); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

/// A fixed set of worker threads. Which thread runs an index is never visible in results: tasks
/// must write disjoint outputs.
class ThreadPool {
 public:
  /// `threads` ≥ 1 in total, the caller included; 0 means the cores this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs task(i, thread) for every i in [0, count), thread in [0, size()), and returns when all
  /// are done. The first exception is rethrown here. Not reentrant from inside a task.
  void parallel_for(int64_t count, IndexTask task);

 private:
  void work(int thread);
  void drain(int thread);
  void join();

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> next_{0};
  std::atomic<int> active_{0};
  int64_t count_ = 0;
  const IndexTask* task_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace ashlar

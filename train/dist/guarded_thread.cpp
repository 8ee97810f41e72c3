#include "train/dist/guarded_thread.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace ashlar {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct GuardedThread::State {
  std::timed_mutex one_caller;
  std::mutex mutex;
  std::condition_variable changed;
  std::function<void()> task;
  bool done = false;
  bool abandoned = false;
  bool stop = false;
  std::exception_ptr error;
};

GuardedThread::GuardedThread() : state_(std::make_shared<State>()) {
  std::thread([state = state_] {
    std::unique_lock lock(state->mutex);
    while (true) {
      state->changed.wait(lock, [&] { return state->stop || state->task; });
      if (state->stop) return;
      std::function<void()> task = std::move(state->task);
      state->task = nullptr;
      lock.unlock();
      std::exception_ptr error;
      try {
        task();
      } catch (...) {
        error = std::current_exception();
      }
      task = nullptr;
      lock.lock();
      state->error = error;
      state->done = true;
      state->changed.notify_all();
    }
  }).detach();
}

GuardedThread::~GuardedThread() {
  const std::lock_guard lock(state_->mutex);
  state_->stop = true;
  state_->changed.notify_all();
}

bool GuardedThread::run(std::function<void()> task, std::chrono::milliseconds timeout,
                        const std::function<void()>& tick) {
  const auto deadline = Clock::now() + timeout;
  const std::unique_lock caller(state_->one_caller, deadline);
  if (!caller.owns_lock()) return false;
  std::unique_lock lock(state_->mutex);
  if (state_->abandoned) return false;
  state_->task = std::move(task);
  state_->done = false;
  state_->changed.notify_all();
  while (!state_->done) {
    const auto until = tick ? std::min(deadline, Clock::now() + 50ms) : deadline;
    if (state_->changed.wait_until(lock, until, [&] { return state_->done; })) break;
    if (Clock::now() >= deadline) {
      state_->abandoned = true;
      return false;
    }
    lock.unlock();
    try {
      tick();
    } catch (...) {
      lock.lock();
      state_->abandoned = true;
      throw;
    }
    lock.lock();
  }
  if (state_->error) std::rethrow_exception(std::exchange(state_->error, nullptr));
  return true;
}

}  // namespace ashlar

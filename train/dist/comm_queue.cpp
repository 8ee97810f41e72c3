#include "train/dist/comm_queue.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "core/base/error.h"

namespace ashlar {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct CommQueue::Item {
  CollectiveInfo info;
  std::function<void()> body;
  bool done = false;
  std::optional<std::string> error;
};

struct CommQueue::State {
  std::shared_ptr<CollectiveGuard> guard;
  std::mutex mutex;
  std::condition_variable queued, finished;
  std::deque<std::shared_ptr<Item>> items;
  bool busy = false, failed = false, stop = false;

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      queued.wait(lock, [&] { return stop || !items.empty(); });
      if (stop) return;
      const std::shared_ptr<Item> item = items.front();
      items.pop_front();
      busy = true;
      // After a failure peers no longer agree on what comes next.
      std::optional<std::string> error;
      if (failed) error = "an earlier collective has failed";
      lock.unlock();
      if (!error) {
        const auto begin = Clock::now();
        try {
          item->body();
          guard->ran(item->info, begin, Clock::now());
        } catch (const std::exception& caught) {
          const std::string text = caught.what();
          error = text.substr(0, text.find('\n'));
        }
      }
      item->body = nullptr;
      lock.lock();
      item->error = error;
      item->done = true;
      failed = failed || error.has_value();
      busy = false;
      finished.notify_all();
    }
  }
};

class CommQueue::Work : public CommWork {
 public:
  Work(std::shared_ptr<State> state, std::shared_ptr<Item> item)
      : state_(std::move(state)), item_(std::move(item)) {}

  bool done() override {
    const std::lock_guard lock(state_->mutex);
    return item_->done;
  }

  void wait() override {
    const auto begin = Clock::now();
    std::unique_lock lock(state_->mutex);
    while (!state_->finished.wait_for(lock, 50ms, [&] { return item_->done; })) {
      lock.unlock();
      state_->guard->waiting(
          item_->info, std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin));
      lock.lock();
    }
    if (!item_->error) return;
    lock.unlock();
    state_->guard->failed(item_->info, *item_->error);
  }

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<Item> item_;
};

CommQueue::CommQueue(std::shared_ptr<CollectiveGuard> guard) : state_(std::make_shared<State>()) {
  state_->guard = std::move(guard);
  std::thread([state = state_] { state->run(); }).detach();
}

CommQueue::~CommQueue() {
  const std::lock_guard lock(state_->mutex);
  state_->stop = true;
  state_->queued.notify_all();
}

std::unique_ptr<CommWork> CommQueue::begin(CollectiveInfo info, std::function<void()> body) {
  state_->guard->begun(info);
  auto item = std::make_shared<Item>();
  item->info = std::move(info);
  item->body = std::move(body);
  const std::lock_guard lock(state_->mutex);
  state_->items.push_back(item);
  state_->queued.notify_all();
  return std::make_unique<Work>(state_, std::move(item));
}

bool CommQueue::idle() const {
  const std::lock_guard lock(state_->mutex);
  return !state_->failed && !state_->busy && state_->items.empty();
}

}  // namespace ashlar

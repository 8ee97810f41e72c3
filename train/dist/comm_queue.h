#pragma once

#include <functional>
#include <memory>

#include "core/comm/communicator.h"
#include "core/comm/guard.h"

namespace ashlar {

/// A thread that runs collectives in the order they were begun. Destroyed while one is under way,
/// it abandons it.
class CommQueue {
 public:
  explicit CommQueue(std::shared_ptr<CollectiveGuard> guard);
  ~CommQueue();
  CommQueue(const CommQueue&) = delete;
  CommQueue& operator=(const CommQueue&) = delete;

  /// Runs `body` after all that was begun before it. The work's wait() asks the guard meanwhile.
  std::unique_ptr<CommWork> begin(CollectiveInfo info, std::function<void()> body);
  /// No work has failed and none is under way: what they use may be destroyed.
  bool idle() const;

 private:
  struct State;
  struct Item;
  class Work;
  std::shared_ptr<State> state_;
};

}  // namespace ashlar

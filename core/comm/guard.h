#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ashlar {

/// A collective that is waited for, as messages name it.
struct CollectiveInfo {
  std::string name;            ///< "all_reduce of 1024 F32"
  std::vector<int64_t> ranks;  ///< of the run, that take part
};

using CollectiveObserver =
    std::function<void(const CollectiveInfo&, std::chrono::steady_clock::time_point begin,
                       std::chrono::steady_clock::time_point end)>;

/// Watches over collectives on behalf of a communicator, which knows neither why a peer is silent
/// nor for how long to wait. Safe for any thread.
class CollectiveGuard {
 public:
  virtual ~CollectiveGuard() = default;
  /// This rank has begun one more collective.
  virtual void begun(const CollectiveInfo& what) = 0;
  /// Called some times a second while a collective is waited for, `elapsed` since the wait began.
  /// Throws Error(kIo) when there is no point in waiting on.
  virtual void waiting(const CollectiveInfo& what, std::chrono::milliseconds elapsed) = 0;
  /// A collective has run on this rank's transport. For traces.
  virtual void ran(const CollectiveInfo& /*what*/, std::chrono::steady_clock::time_point /*begin*/,
                   std::chrono::steady_clock::time_point /*end*/) {}
  /// The transport gave up with `error`. Throws Error(kIo) with the reason behind it.
  [[noreturn]] virtual void failed(const CollectiveInfo& what, const std::string& error) = 0;
};

}  // namespace ashlar

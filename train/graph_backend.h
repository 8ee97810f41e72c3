#pragma once

#include <cstdint>
#include <functional>
#include <memory>

// Work of a device that is recorded once and put there again. No torch here.

namespace ashlar {

/// Work that can be done again, reading and writing the same memory.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Puts all of it on the device's current stream.
  virtual void replay() = 0;
};

/// What records. Work given to it must not depend on values in memory by way of the host: a replay
/// does the same operations on the same addresses.
class GraphBackend {
 public:
  virtual ~GraphBackend() = default;
  /// Does `work` where capture() would record it: libraries prepare themselves outside a recording.
  virtual void run(const std::function<void()>& work) = 0;
  /// Records `work`, with or without doing it as well. Throws Error(kRequest) when it cannot be
  /// recorded.
  virtual std::unique_ptr<Recording> capture(const std::function<void()>& work) = 0;
};

/// CUDA graphs of GPU `index`. All of them share one pool of memory, so no two may run at a time.
/// Throws Error(kRequest) in a build for CPUs.
std::unique_ptr<GraphBackend> make_cuda_graphs(int64_t index);

}  // namespace ashlar

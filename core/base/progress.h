#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace ashlar {

/// A one-line progress bar on stderr, drawn only when stderr is a terminal (or ASHLAR_PROGRESS=1)
/// and at most ten times a second. Destruction ends the line.
class Progress {
 public:
  /// `total` ≤ 0 means unknown: a counter without a bar.
  Progress(std::string label, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Sets the position and a short note shown at the right, such as "loss 3.21".
  void update(int64_t done, const std::string& note = {});

 private:
  void draw();

  std::string label_;
  std::string note_;
  int64_t total_;
  int64_t done_ = 0;
  bool enabled_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point drawn_;
};

}  // namespace ashlar

#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar {

class Tracer;

/// A span from construction to destruction; nothing at all without a tracer.
class ScopedSpan {
 public:
  /// `tracer` may be null.
  ScopedSpan(Tracer* tracer, std::string_view lane, std::string_view name);
  ~ScopedSpan();
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

 private:
  Tracer* tracer_;
  std::string lane_, name_;
  std::chrono::steady_clock::time_point begin_;
};

/// Spans of a few steps as a Chrome trace (chrome://tracing, Perfetto): process = rank, thread =
/// lane ("compute", "communication", "data", "checkpoint"), complete events ("ph": "X") in µs of
/// the machine's steady clock, so that the traces of ranks on one machine lie on one time line.
/// Safe for any thread; spans are kept in memory until write().
class Tracer {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Tracer(int64_t rank) : rank_(rank) {}

  /// `end` must not lie before `begin`.
  void span(std::string_view lane, std::string_view name, Clock::time_point begin,
            Clock::time_point end);
  ScopedSpan scope(std::string_view lane, std::string_view name) { return {this, lane, name}; }
  int64_t size() const;
  /// Writes all spans so far, by their beginning, replacing `path` as a whole. Throws Error(kIo).
  void write(const std::filesystem::path& path) const;

 private:
  struct Span {
    int64_t lane = 0;
    int64_t name = 0;
    Clock::time_point begin, end;
  };
  using Names = std::map<std::string, int64_t, std::less<>>;
  static int64_t number_of(Names& names, std::string_view name);

  int64_t rank_;
  mutable std::mutex mutex_;
  Names lanes_, names_;
  std::vector<Span> spans_;
};

}  // namespace ashlar

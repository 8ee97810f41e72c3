#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

/// Reads a generator's options strictly and writes down what every one of them became, defaults
/// included: the generator's settings.
class TaskOptions {
 public:
  /// Keeps a reference to `options`.
  TaskOptions(std::string_view task, const Node& options);

  // Optional keys with their defaults; bounds are inclusive.
  int64_t integer(std::string_view key, int64_t value, int64_t low, int64_t high);
  double number(std::string_view key, double value, double low, double high);
  size_t choice(std::string_view key, size_t value, const std::vector<std::string_view>& names);
  /// `seed`, default 0.
  uint64_t seed();

  bool has(std::string_view key) { return reader_.has(key); }
  /// Notes a fact that is no option, such as the vocabulary.
  void note(std::string_view key, Node value) { settings_.set(std::string(key), std::move(value)); }
  /// Throws Error(kRequest), naming the key and where it was given.
  [[noreturn]] void refuse(std::string_view key, const std::string& reason) const;
  /// Refuses keys that nobody asked for, and gives the settings.
  Node finish();

 private:
  const Node& options_;
  NodeReader reader_;
  Node settings_ = Node::map();
};

/// Bound of lengths and counts that options may ask for.
inline constexpr int64_t kMostTaskTokens = int64_t{1} << 24;

}  // namespace ashlar

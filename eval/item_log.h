#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

/// The numbers of one item of a task.
struct ItemResult {
  std::vector<double> values;
  int64_t kv_bytes = 0;          ///< largest cache of one of its texts
  int64_t kv_prompt_bytes = 0;   ///< likewise, when the prompt was in
  int64_t kv_shared_tokens = 0;  ///< of all of its texts, taken from texts before
  double seconds = 0;
};

/// Every item's numbers as JSON lines, so that a long evaluation can go on where it ended and a
/// reader can look at single items:
///
///   {"task": T, "settings": {...}}                     once per task
///   {"task": T, "item": 12, "values": [...], "kv_bytes": n, "kv_prompt_bytes": n,
///    "kv_shared_tokens": n, "seconds": s}
///
/// A line that a kill cut short is dropped. One process at a time.
class ItemLog {
 public:
  /// Opens or creates `path`. Throws Error(kData) "file:line: reason" for a file that is no such
  /// log, Error(kRequest) when another process has it open.
  explicit ItemLog(std::filesystem::path path);
  ~ItemLog();
  ItemLog(const ItemLog&) = delete;
  ItemLog& operator=(const ItemLog&) = delete;

  /// Begins or resumes `task`. Throws Error(kRequest) naming the first difference when the log
  /// holds it with other settings.
  void begin(const std::string& task, const Node& settings);
  /// What an earlier run found for an item, if it came to it.
  const ItemResult* find(const std::string& task, int64_t item) const;
  void append(const std::string& task, int64_t item, const ItemResult& result);

 private:
  struct Task {
    Node settings;
    std::map<int64_t, ItemResult> items;
  };
  void read(const std::string& text);
  void write_line(const Node& node);

  std::filesystem::path path_;
  int fd_ = -1;
  std::map<std::string, Task> tasks_;
};

}  // namespace ashlar

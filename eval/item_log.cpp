#include "eval/item_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

// Where two settings part, as "path: a, now b"; empty when they are equal.
std::string difference(const Node& then, const Node& now, const std::string& path) {
  if (then.is_map() && now.is_map()) {
    for (const auto& [key, value] : now.as_map()) {
      const Node* before = then.find(key);
      const std::string at = path.empty() ? key : path + "." + key;
      if (before == nullptr) return at + ": absent, now " + write_json(value);
      if (std::string found = difference(*before, value, at); !found.empty()) return found;
    }
    for (const auto& [key, value] : then.as_map()) {
      if (now.find(key) == nullptr) return key + ": " + write_json(value) + ", now absent";
    }
    return {};
  }
  const std::string a = write_json(then), b = write_json(now);
  return a == b ? std::string{} : path + ": " + a + ", now " + b;
}

}  // namespace

ItemLog::ItemLog(fs::path path) : path_(std::move(path)) {
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0644);
  require(fd_ >= 0, ErrorCode::kRequest, "{}: cannot be opened: {}", path_.string(),
          std::strerror(errno));
  try {
    require(flock(fd_, LOCK_EX | LOCK_NB) == 0, ErrorCode::kRequest,
            "{}: another process is writing this log", path_.string());
    std::string text = read_file(path_);
    const size_t whole = text.rfind('\n') + 1;  // 0 without any
    if (whole != text.size()) {
      text.resize(whole);
      require(ftruncate(fd_, static_cast<off_t>(whole)) == 0, ErrorCode::kIo, "{}: {}",
              path_.string(), std::strerror(errno));
    }
    read(text);
  } catch (...) {
    close(fd_);
    throw;
  }
}

ItemLog::~ItemLog() { close(fd_); }

void ItemLog::read(const std::string& text) {
  int64_t line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string where = fmt::format("{}:{}", path_.string(), ++line);
    const Node row = parse_json(std::string_view(text).substr(at, end - at), where);
    at = end + 1;
    const Node* task = row.is_map() ? row.find("task") : nullptr;
    require(task != nullptr && task->is_string(), ErrorCode::kData,
            "{}: is no line of a log of items", where);
    if (const Node* settings = row.find("settings")) {
      tasks_[task->as_string()].settings = *settings;
      continue;
    }
    NodeReader reader(row);
    reader.required("task");
    const int64_t item = reader.integer("item", 0, INT64_MAX);
    ItemResult result;
    for (const Node& value : reader.required("values").as_list()) {
      result.values.push_back(value.as_double());
    }
    result.kv_bytes = reader.integer("kv_bytes", 0, INT64_MAX);
    // Absent in logs of earlier versions.
    result.kv_prompt_bytes = reader.integer_or("kv_prompt_bytes", 0, 0, INT64_MAX);
    result.kv_shared_tokens = reader.integer_or("kv_shared_tokens", 0, 0, INT64_MAX);
    result.seconds = reader.number("seconds", 0, 1e12);
    reader.finish();
    tasks_[task->as_string()].items[item] = std::move(result);
  }
}

void ItemLog::write_line(const Node& node) {
  const std::string line = write_json(node) + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    require(n >= 0, ErrorCode::kIo, "{}: cannot write: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

void ItemLog::begin(const std::string& task, const Node& settings) {
  const auto found = tasks_.find(task);
  if (found == tasks_.end()) {
    write_line(Node::Map{{"task", task}, {"settings", settings}});
    tasks_[task].settings = settings;
    return;
  }
  const std::string other = difference(found->second.settings, settings, "");
  require(other.empty(), ErrorCode::kRequest,
          "{}: holds {} with other settings ({}): choose another file", path_.string(), task,
          other);
}

const ItemResult* ItemLog::find(const std::string& task, int64_t item) const {
  const auto found = tasks_.find(task);
  if (found == tasks_.end()) return nullptr;
  const auto result = found->second.items.find(item);
  return result == found->second.items.end() ? nullptr : &result->second;
}

void ItemLog::append(const std::string& task, int64_t item, const ItemResult& result) {
  Node values = Node::list();
  for (double value : result.values) values.push(value);
  write_line(Node::Map{{"task", task},
                       {"item", item},
                       {"values", std::move(values)},
                       {"kv_bytes", result.kv_bytes},
                       {"kv_prompt_bytes", result.kv_prompt_bytes},
                       {"kv_shared_tokens", result.kv_shared_tokens},
                       {"seconds", result.seconds}});
}

}  // namespace ashlar

#include "core/comm/store.h"

#include <algorithm>
#include <thread>

namespace ashlar {

using namespace std::chrono_literals;

std::optional<std::string> KeyValueStore::wait(const std::string& key,
                                               std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (auto pause = 1ms;; pause = std::min<std::chrono::milliseconds>(2 * pause, 100ms)) {
    if (auto value = get(key)) return value;
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= 0ms) return std::nullopt;
    std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(pause, left));
  }
}

void LocalStore::set(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = value;
}

std::optional<std::string> LocalStore::get(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(key);
  return found == values_.end() ? std::nullopt : std::optional(found->second);
}

void LocalStore::erase(const std::string& key) {
  const std::lock_guard lock(mutex_);
  values_.erase(key);
}

}  // namespace ashlar

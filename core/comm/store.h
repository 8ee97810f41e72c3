#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace ashlar {

/// Small texts that every rank of a run can set and read: what is not worth a collective, and must
/// work when collectives do not. Safe for any thread.
class KeyValueStore {
 public:
  virtual ~KeyValueStore() = default;
  /// Throws Error(kIo) when the store cannot be reached.
  virtual void set(const std::string& key, const std::string& value) = 0;
  virtual std::optional<std::string> get(const std::string& key) = 0;
  virtual void erase(const std::string& key) = 0;
  /// The value of `key`, waited for at most `timeout`; absent when it did not come.
  std::optional<std::string> wait(const std::string& key, std::chrono::milliseconds timeout);
};

/// The store of a single process.
class LocalStore : public KeyValueStore {
 public:
  void set(const std::string& key, const std::string& value) override;
  std::optional<std::string> get(const std::string& key) override;
  void erase(const std::string& key) override;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

}  // namespace ashlar

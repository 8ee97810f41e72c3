#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/comm/store.h"

namespace ashlar {

struct RawStore;

/// Where the store of a run is served, and under which prefix its keys live.
struct StoreAddress {
  std::string host;
  int64_t port = 0;
  bool serve = false;  ///< by this process, for as long as its first connection lives
  std::string prefix;
  std::string server = "rank 0";  ///< who serves it, for messages
};

/// One connection to c10d's TCPStore. Every call ends: one that takes longer than the operation
/// timeout throws Error(kIo), and so do all that follow (a stopped server answers no more).
class TcpStore : public KeyValueStore {
 public:
  /// Connects, waiting for the server at most `connect_timeout`. Throws Error(kIo) when the address
  /// cannot be reached, when something else answers there, or when the port to serve at is taken.
  TcpStore(const StoreAddress& address, std::chrono::milliseconds connect_timeout,
           std::chrono::milliseconds operation_timeout);
  ~TcpStore() override;

  void set(const std::string& key, const std::string& value) override;
  std::optional<std::string> get(const std::string& key) override;
  void erase(const std::string& key) override;
  /// Values of keys that all exist, in one request.
  std::vector<std::string> get_all(const std::vector<std::string>& keys);
  /// Adds to the number under `key` (0 at first) and returns the sum.
  int64_t add(const std::string& key, int64_t value);

  /// One more connection to the same server: its calls do not queue behind this one's.
  std::unique_ptr<TcpStore> another(std::chrono::milliseconds operation_timeout) const;
  const StoreAddress& address() const;
  /// For what speaks to c10d itself (train/dist/raw_store.h).
  const RawStore& raw() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar

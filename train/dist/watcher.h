#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/comm/guard.h"
#include "train/dist/launch.h"
#include "train/dist/rank_identity.h"
#include "train/dist/store.h"

namespace ashlar {

/// How a rank has ended, as it says itself under "end/<rank>".
enum class RankEnd {
  kNot,       ///< it runs
  kLeaving,   ///< in order; it waits for the others to leave too
  kLeft,      ///< in order; it reads nothing any more
  kError,     ///< with an error of its own
  kFollowed,  ///< because of another rank
};
struct EndRecord {
  RankEnd end = RankEnd::kNot;
  std::string reason;

  std::string encode() const;
  static EndRecord decode(const std::string& text);
};

/// What a rank says of itself once per heartbeat, under "beat/<rank>".
struct BeatRecord {
  int64_t beat = 0;
  int64_t collectives = 0;  ///< begun so far
  std::string collective;   ///< the one begun last
  bool noticed = false;     ///< that another rank has failed
  std::string phase;

  std::string encode() const;
  static BeatRecord decode(const std::string& text);
};

std::string end_key(int64_t rank);
std::string beat_key(int64_t rank);

struct WatcherOptions {
  std::chrono::milliseconds timeout;    ///< of a collective, from when it is waited for
  std::chrono::milliseconds heartbeat;  ///< between two signs of life
  /// A rank that has shown no sign of life for this long is lost.
  std::chrono::milliseconds lost() const { return 6 * heartbeat; }
};

/// One rank's thread that tells the others of this rank and reads what they tell, and from that
/// says why a collective does not end. Has a connection to the store of its own. Once something is
/// wrong it stays wrong: everything that asks gets the same finding.
class Watcher final : public CollectiveGuard, public std::enable_shared_from_this<Watcher> {
 public:
  using Clock = std::chrono::steady_clock;

  /// `ranks`: who is who. All keys of beats and ends exist.
  Watcher(std::unique_ptr<TcpStore> store, const Launch& launch, std::vector<RankIdentity> ranks,
          const WatcherOptions& options);

  void start();
  /// Ends the thread; returns when it has, or after a store operation's timeout at the latest.
  void stop();

  void phase(std::string_view what);
  /// Throws Error(kIo) when another rank has ended with an error or is lost.
  void check();
  /// Whether another rank has failed.
  bool noticed() const;
  /// "rank 2 (node7, process 4711)".
  std::string describe(int64_t rank) const;

  /// Is told of every collective that has run; an empty function ends it.
  void observe(CollectiveObserver observer);

  void begun(const CollectiveInfo& what) override;
  void ran(const CollectiveInfo& what, Clock::time_point begin, Clock::time_point end) override;
  void waiting(const CollectiveInfo& what, std::chrono::milliseconds elapsed) override;
  [[noreturn]] void failed(const CollectiveInfo& what, const std::string& error) override;

 private:
  struct Other {
    std::string beat_text;
    BeatRecord beat;
    EndRecord end;
    Clock::time_point alive;    ///< when its beat changed last
    Clock::time_point leaving;  ///< when it was first seen to leave
    bool gone = false;          ///< the operating system says so
  };

  void run();
  void turn();
  void read();
  void forgive_pause();
  bool look_for_gone();
  void assess();
  void lose_store(const std::string& error);
  std::string lost_text(int64_t rank) const;
  std::string slow_text(const CollectiveInfo& what) const;
  [[noreturn]] void report(const std::string& what, const std::string& finding) const;
  bool is_other(int64_t rank) const { return rank != launch_.rank; }

  std::unique_ptr<TcpStore> store_;
  const Launch launch_;
  const std::vector<RankIdentity> ranks_;
  const WatcherOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Other> others_;  // by rank; this one's stays empty
  BeatRecord own_;
  std::optional<std::string> finding_;
  Clock::time_point last_turn_;
  bool stop_ = false, ended_ = true;
  std::mutex observing_;
  CollectiveObserver observer_;
};

}  // namespace ashlar

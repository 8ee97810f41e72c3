#include "train/dist/cluster.h"

#include <signal.h>

#include <algorithm>
#include <thread>

#include "core/base/error.h"
#include "core/base/version.h"
#include "train/dist/gloo.h"
#include "train/dist/record.h"
#include "train/dist/store.h"
#include "train/dist/watcher.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

class SingleCluster : public Cluster {
 public:
  explicit SingleCluster(const Launch& launch)
      : launch_(launch), world_(make_single_communicator()) {}
  const Launch& launch() const override { return launch_; }
  Communicator& world() override { return *world_; }
  std::shared_ptr<CollectiveGuard> guard() override { return nullptr; }
  void observe(CollectiveObserver) override {}
  KeyValueStore& store() override { return store_; }
  const std::vector<int64_t>& hosts() const override { return hosts_; }
  void phase(std::string_view) override {}
  void check() override {}
  void leave() override {}
  void abort(const std::string&) noexcept override {}

 private:
  Launch launch_;
  std::unique_ptr<Communicator> world_;
  LocalStore store_;
  std::vector<int64_t> hosts_ = {0};
};

// "0", "0 and 3", "0, 1 and 3".
std::string listed(const std::vector<int64_t>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

std::string ranks_text(const std::vector<int64_t>& ranks) {
  return (ranks.size() == 1 ? "rank " : "ranks ") + listed(ranks);
}

std::string who_key(int64_t rank) { return fmt::format("who/{}", rank); }
std::string run_key(int64_t rank) { return fmt::format("run/{}", rank); }

// What has to be the same on every rank.
struct RunRecord {
  std::string fingerprint, version, world;

  std::string encode() const { return encode_record({fingerprint, version, world}); }
  static RunRecord decode(const std::string& text) {
    const auto fields = decode_record(text, 3);
    return {fields[0], fields[1], fields[2]};
  }
};

// The store as others get it: when it fails, the watcher says which rank is behind that.
class WatchedStore : public KeyValueStore {
 public:
  WatchedStore(TcpStore& store, std::shared_ptr<Watcher> watcher)
      : store_(store), watcher_(std::move(watcher)) {}
  void set(const std::string& key, const std::string& value) override {
    run("writing", key, [&] {
      store_.set(own(key), value);
      return true;
    });
  }
  std::optional<std::string> get(const std::string& key) override {
    watcher_->check();  // a loop that waits for a key must not outlive the rank that would set it
    return run("reading", key, [&] { return store_.get(own(key)); });
  }
  void erase(const std::string& key) override {
    run("erasing", key, [&] {
      store_.erase(own(key));
      return true;
    });
  }

 private:
  static std::string own(const std::string& key) { return "user/" + key; }

  template <typename Call>
  auto run(const char* what, const std::string& key, Call call) -> decltype(call()) {
    try {
      return call();
    } catch (const Error& error) {
      watcher_->failed({fmt::format("{} \"{}\" of the store", what, key), {}}, error.what());
    }
  }

  TcpStore& store_;
  std::shared_ptr<Watcher> watcher_;
};

// Gloo writes to connections whose other end may just have died; by default that ends the process
// without a word, before anybody could say which rank it was.
void ignore_broken_pipes() {
  struct sigaction current {};
  if (sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL) {
    current.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &current, nullptr);
  }
}

class MultiCluster : public Cluster {
 public:
  MultiCluster(const Launch& launch, const ClusterOptions& options)
      : launch_(launch), options_(options), watching_{options.timeout, options.heartbeat} {
    ignore_broken_pipes();
    StoreAddress address{launch.address, launch.port, launch.serves_store(),
                         fmt::format("ashlar/{}/{}", launch.run_id, launch.restart_count)};
    if (launch.agent_store) address.server = "the launcher's agent";
    store_ = std::make_unique<TcpStore>(address, options.timeout, 2 * watching_.lost());
  }

  ~MultiCluster() override {
    if (left_) return;
    if (!aborted_) abort("it left the run without an orderly end");
    // Threads may be stuck in any of these.
    static_cast<void>(world_.release());
    static_cast<void>(store_.release());
  }

  void meet() {
    introduce();
    const std::vector<RunRecord> runs = await_all();
    compare(runs);
    number_hosts();
    watcher_ =
        std::make_shared<Watcher>(store_->another(watching_.lost()), launch_, ranks_, watching_);
    watcher_->start();
    watched_store_ = std::make_unique<WatchedStore>(*store_, watcher_);
    check_address();
    world_ =
        make_gloo_communicator(*store_, launch_.rank, launch_.world, {options_.timeout, watcher_});
  }

  const Launch& launch() const override { return launch_; }
  Communicator& world() override { return *world_; }
  std::shared_ptr<CollectiveGuard> guard() override { return watcher_; }
  void observe(CollectiveObserver observer) override { watcher_->observe(std::move(observer)); }
  KeyValueStore& store() override { return *watched_store_; }
  const std::vector<int64_t>& hosts() const override { return hosts_; }
  void phase(std::string_view what) override { watcher_->phase(what); }
  void check() override { watcher_->check(); }
  void leave() override;
  void abort(const std::string& reason) noexcept override;

 private:
  void introduce();
  std::vector<RunRecord> await_all();
  void compare(const std::vector<RunRecord>& runs) const;
  void number_hosts();
  void check_address() const;
  bool all_others(const std::function<bool(const EndRecord&, const BeatRecord&)>& is);
  void post_end(RankEnd end, const std::string& reason) {
    store_->set(end_key(launch_.rank), EndRecord{end, reason}.encode());
  }

  Launch launch_;
  ClusterOptions options_;
  WatcherOptions watching_;
  std::unique_ptr<TcpStore> store_;
  std::vector<int64_t> joined_;  // other ranks that have been seen
  std::vector<RankIdentity> ranks_;
  std::vector<int64_t> hosts_;
  std::shared_ptr<Watcher> watcher_;
  std::unique_ptr<WatchedStore> watched_store_;
  std::unique_ptr<Communicator> world_;
  bool claimed_ = false, left_ = false, aborted_ = false;
};

void MultiCluster::introduce() {
  const RankIdentity self = RankIdentity::of_this_process();
  const int64_t claims = store_->add(fmt::format("claim/{}", launch_.rank), 1);
  require(claims == 1, ErrorCode::kRequest,
          "rank {} of the run at {}:{} is taken by another process already: give every process a "
          "rank of its own, and every run a MASTER_PORT of its own",
          launch_.rank, launch_.address, launch_.port);
  claimed_ = true;
  store_->set(end_key(launch_.rank), EndRecord{}.encode());
  store_->set(beat_key(launch_.rank), BeatRecord{}.encode());
  store_->set(who_key(launch_.rank), self.encode());
  store_->set(run_key(launch_.rank),
              RunRecord{options_.fingerprint, std::string(kVersion), std::to_string(launch_.world)}
                  .encode());
}

std::vector<RunRecord> MultiCluster::await_all() {
  const auto world = static_cast<size_t>(launch_.world);
  std::vector<RunRecord> runs(world);
  std::vector<bool> here(world);
  ranks_.resize(world);
  const auto deadline = Clock::now() + options_.timeout;
  for (auto pause = 5ms;; pause = std::min<milliseconds>(2 * pause, 100ms)) {
    std::vector<int64_t> missing, present;
    for (int64_t r = 0; r < launch_.world; ++r) {
      const auto i = static_cast<size_t>(r);
      if (!here[i]) {
        if (const auto run = store_->get(run_key(r))) {
          runs[i] = RunRecord::decode(*run);
          ranks_[i] = RankIdentity::decode(store_->get(who_key(r)).value_or(""));
          here[i] = true;
          if (r != launch_.rank) joined_.push_back(r);
        }
      }
      (here[i] ? present : missing).push_back(r);
    }
    if (missing.empty()) return runs;
    for (const int64_t r : joined_) {
      const EndRecord end = EndRecord::decode(store_->get(end_key(r)).value_or(""));
      require(end.end == RankEnd::kNot, ErrorCode::kIo, "joining the run: {} has ended: {}",
              ranks_text({r}), end.reason);
    }
    require(Clock::now() < deadline, ErrorCode::kIo,
            "{} of {} {} not joined within {:.0f} s; {} {}: was a process started for every rank, "
            "with the same MASTER_ADDR and MASTER_PORT?",
            ranks_text(missing), launch_.world, missing.size() == 1 ? "has" : "have",
            std::chrono::duration<double>(options_.timeout).count(), ranks_text(present),
            present.size() == 1 ? "has" : "have");
    std::this_thread::sleep_for(pause);
  }
}

void MultiCluster::compare(const std::vector<RunRecord>& runs) const {
  const auto same = [&](const char* what, std::string RunRecord::*member, const char* advice) {
    std::vector<int64_t> differing;
    for (int64_t r = 0; r < launch_.world; ++r) {
      if (runs[static_cast<size_t>(r)].*member != runs[0].*member) differing.push_back(r);
    }
    if (differing.empty()) return;
    const bool one = differing.size() == 1;
    const RankIdentity& first = ranks_[static_cast<size_t>(differing[0])];
    fail(ErrorCode::kRequest, "{} {} another {} than rank 0 (rank {}: {}, process {}): {}",
         ranks_text(differing), one ? "has" : "have", what, differing[0], first.host, first.pid,
         advice);
  };
  same("number of ranks", &RunRecord::world, "give every process the same WORLD_SIZE");
  same("version of Ashlar", &RunRecord::version, "install the same build on every host");
  same("configuration", &RunRecord::fingerprint,
       "start every rank with the same configuration file and options");
}

void MultiCluster::number_hosts() {
  int64_t count = 0;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const auto begin = ranks_.begin(), here = begin + static_cast<std::ptrdiff_t>(r);
    const auto first = std::find_if(
        begin, here, [&](const RankIdentity& other) { return other.same_network_host(*here); });
    hosts_.push_back(first == here ? count++ : hosts_[static_cast<size_t>(first - begin)]);
  }
}

void MultiCluster::check_address() const {
  if (*std::max_element(hosts_.begin(), hosts_.end()) == 0) return;
  const std::string local = local_address_towards(launch_.address, launch_.port);
  require(
      !local.starts_with("127.") && local != "::1", ErrorCode::kRequest,
      "MASTER_ADDR {} is a loopback address ({}) on the host of rank {}, but other ranks run on "
      "other hosts; set MASTER_ADDR to an address of rank 0's host that all of them reach",
      launch_.address, local, launch_.rank);
}

bool MultiCluster::all_others(const std::function<bool(const EndRecord&, const BeatRecord&)>& is) {
  std::vector<std::string> keys;
  for (const int64_t r : joined_) {
    keys.push_back(end_key(r));
    keys.push_back(beat_key(r));
  }
  const auto values = store_->get_all(keys);
  for (size_t i = 0; i < values.size(); i += 2) {
    if (!is(EndRecord::decode(values[i]), BeatRecord::decode(values[i + 1]))) return false;
  }
  return true;
}

void MultiCluster::leave() {
  check();
  world_->barrier();
  post_end(RankEnd::kLeaving, "");
  const auto ended = [](const EndRecord& end, const BeatRecord&) {
    return end.end == RankEnd::kLeaving || end.end == RankEnd::kLeft;
  };
  const auto all_ended = [&] {
    try {
      return all_others(ended);
    } catch (const Error& error) {
      watcher_->failed({"leaving the run", {}}, error.what());
    }
  };
  while (!all_ended()) {
    check();
    std::this_thread::sleep_for(5ms);
  }
  watcher_->stop();
  post_end(RankEnd::kLeft, "");
  if (launch_.serves_store()) {
    const auto deadline = Clock::now() + watching_.lost();
    const auto gone = [](const EndRecord& end, const BeatRecord&) {
      return end.end == RankEnd::kLeft;
    };
    while (!all_others(gone) && Clock::now() < deadline) std::this_thread::sleep_for(5ms);
  }
  left_ = true;
  world_.reset();
}

void MultiCluster::abort(const std::string& reason) noexcept {
  if (aborted_ || left_) return;
  aborted_ = true;
  if (!claimed_) return;  // the records of this rank are another's
  try {
    const bool followed = watcher_ && watcher_->noticed();
    post_end(followed ? RankEnd::kFollowed : RankEnd::kError, reason);
    if (!launch_.serves_store()) return;
    // The store ends with this process: the others must have read the reason before.
    const auto knows = [](const EndRecord& end, const BeatRecord& beat) {
      return end.end != RankEnd::kNot || beat.noticed;
    };
    const auto deadline = Clock::now() + 3 * options_.heartbeat + 500ms;
    while (!all_others(knows) && Clock::now() < deadline) std::this_thread::sleep_for(10ms);
  } catch (const std::exception&) {
    // The store is out of reach: the others notice by its silence.
  }
}

}  // namespace

std::unique_ptr<Cluster> Cluster::join(const Launch& launch, const ClusterOptions& options) {
  ASHLAR_CHECK(options.heartbeat > 0ms && options.timeout > 0ms);
  if (launch.world == 1) return std::make_unique<SingleCluster>(launch);
  auto cluster = std::make_unique<MultiCluster>(launch, options);
  try {
    cluster->meet();
  } catch (const std::exception& error) {
    cluster->abort(error.what());
    throw;
  }
  return cluster;
}

}  // namespace ashlar

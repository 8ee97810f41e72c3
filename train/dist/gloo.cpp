#define USE_C10D_GLOO
#include "train/dist/gloo.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "core/base/error.h"
#include "train/dist/comm_queue.h"
#include "train/dist/guarded_thread.h"
#include "train/dist/rank_order.h"
#include "train/dist/raw_store.h"

namespace ashlar {
namespace {

// Bytes that a rank receives from each peer before it reduces them.
constexpr int64_t kPieceBytes = 4 << 20;
// Up to here every rank gets every buffer whole: one exchange instead of two.
constexpr int64_t kSmallBytes = 8 << 10;

std::shared_ptr<gloo::transport::Device> make_device(const StoreAddress& store) {
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface != nullptr) return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  return c10d::ProcessGroupGloo::createDeviceForHostname(
      local_address_towards(store.host, store.port));
}

// Point-to-point transfers of a group of ranks; everything blocks, on the queue's thread.
class Peers {
 public:
  Peers(c10::intrusive_ptr<c10d::ProcessGroupGloo> group, int64_t rank, int64_t size)
      : group_(std::move(group)), rank_(rank), size_(size) {}

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }

  void send(const void* data, int64_t bytes, int64_t to) {
    if (bytes == 0) return;
    std::vector<at::Tensor> tensor = {bytes_of(const_cast<void*>(data), bytes)};
    works_.push_back(group_->send(tensor, static_cast<int>(to), tag_));
  }
  void receive(void* data, int64_t bytes, int64_t from) {
    if (bytes == 0) return;
    std::vector<at::Tensor> tensor = {bytes_of(data, bytes)};
    works_.push_back(group_->recv(tensor, static_cast<int>(from), tag_));
  }
  /// Names what comes next. Ranks that disagree wait for each other until the guard ends it; with
  /// the same tag for all, Gloo would end the process for a transfer of an unexpected size.
  void enter(const std::string& collective) {
    tag_ = static_cast<int>(std::hash<std::string>()(collective + std::to_string(++number_)) &
                            0x7fffffff);
  }
  void finish() {
    const auto works = std::exchange(works_, {});
    for (const auto& work : works) work->wait();
  }
  /// At least `bytes` of memory that lives until the next call.
  char* scratch(int64_t bytes) {
    if (static_cast<int64_t>(scratch_.size()) < bytes) scratch_.resize(static_cast<size_t>(bytes));
    return scratch_.data();
  }

 private:
  static at::Tensor bytes_of(void* data, int64_t bytes) {
    return at::from_blob(data, {bytes}, at::TensorOptions(at::kByte));
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  int64_t rank_, size_, number_ = 0;
  int tag_ = 0;
  std::vector<c10::intrusive_ptr<c10d::Work>> works_;
  std::vector<char> scratch_;
};

struct Reduction {
  DType type;
  ReduceOp op;
  int64_t width() const { return dtype_bytes(type); }
};

// Rank r has parts[p] [counts[p]] for every rank p; `out` [counts[rank]] becomes the reduction of
// this rank's parts. Each rank sends its part p to p straight away: (n-1)/n of the buffer in all.
void reduce_parts(Peers& peers, std::span<const char* const> parts, std::span<const int64_t> counts,
                  char* out, Reduction reduction) {
  const int64_t n = peers.size(), me = peers.rank(), width = reduction.width();
  const int64_t piece = kPieceBytes / width;
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  std::vector<const void*> inputs(static_cast<size_t>(n));
  for (int64_t begin = 0; begin < most; begin += piece) {
    const auto length = [&](int64_t p) { return std::clamp<int64_t>(counts[p] - begin, 0, piece); };
    const int64_t mine = length(me);
    char* received = peers.scratch((n - 1) * mine * width);
    for (int64_t step = 1; step < n; ++step) {
      const int64_t to = (me + step) % n, from = (me + n - step) % n;
      char* into = received + (step - 1) * mine * width;
      peers.receive(into, mine * width, from);
      peers.send(parts[to] + begin * width, length(to) * width, to);
      inputs[from] = into;
    }
    inputs[me] = parts[me] + begin * width;
    peers.finish();
    if (mine > 0) {
      reduce_in_order(inputs, out + begin * width, mine, reduction.type, reduction.op);
    }
  }
}

// Part p of `data`, at offsets[p] with counts[p] elements, from rank p to all others.
void gather_parts(Peers& peers, char* data, std::span<const int64_t> offsets,
                  std::span<const int64_t> counts, int64_t width) {
  const int64_t n = peers.size(), me = peers.rank();
  for (int64_t step = 1; step < n; ++step) {
    const int64_t to = (me + step) % n, from = (me + n - step) % n;
    peers.receive(data + offsets[from] * width, counts[from] * width, from);
    peers.send(data + offsets[me] * width, counts[me] * width, to);
  }
  peers.finish();
}

void all_reduce_small(Peers& peers, char* data, int64_t count, Reduction reduction) {
  const int64_t n = peers.size(), me = peers.rank(), bytes = count * reduction.width();
  char* received = peers.scratch(n * bytes);
  std::vector<const void*> inputs(static_cast<size_t>(n), data);
  for (int64_t step = 1; step < n; ++step) {
    const int64_t to = (me + step) % n, from = (me + n - step) % n;
    peers.receive(received + from * bytes, bytes, from);
    peers.send(data, bytes, to);
    inputs[from] = received + from * bytes;
  }
  peers.finish();
  reduce_in_order(inputs, data, count, reduction.type, reduction.op);
}

void all_reduce_large(Peers& peers, char* data, int64_t count, Reduction reduction) {
  const int64_t n = peers.size(), width = reduction.width();
  std::vector<int64_t> offsets, counts;
  std::vector<const char*> parts;
  for (int64_t p = 0; p < n; ++p) {
    offsets.push_back(p * count / n);
    counts.push_back((p + 1) * count / n - offsets.back());
    parts.push_back(data + offsets.back() * width);
  }
  reduce_parts(peers, parts, counts, data + offsets[peers.rank()] * width, reduction);
  gather_parts(peers, data, offsets, counts, width);
}

// Binomial tree: a rank that has the data hands it on to one more in each round.
void broadcast_tree(Peers& peers, char* data, int64_t bytes, int64_t root) {
  const int64_t n = peers.size(), place = (peers.rank() + n - root) % n;
  const auto rank_at = [&](int64_t p) { return (p + root) % n; };
  int64_t reach = 1;
  for (; reach < n; reach *= 2) {
    if (place >= reach && place < 2 * reach) {
      peers.receive(data, bytes, rank_at(place - reach));
      peers.finish();
    }
    if (place < reach && place + reach < n) peers.send(data, bytes, rank_at(place + reach));
  }
  peers.finish();
}

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(const TcpStore& store, std::vector<int64_t> ranks, int64_t rank,
                   const std::string& name, const GlooOptions& options)
      : store_(store),
        ranks_(std::move(ranks)),
        rank_(rank),
        name_(name),
        options_(options),
        queue_(options.guard) {
    connect();
  }

  ~GlooCommunicator() override {
    // A stuck thread still uses the group, whose destructor would wait for it.
    if (!queue_.idle()) {
      new c10::intrusive_ptr<c10d::ProcessGroupGloo>(group_);
      new std::shared_ptr<Peers>(peers_);
    }
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(ranks_.size()); }

  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    check_reduction(type, op);
    return begin("all_reduce", count, type, [=, peers = peers_] {
      const Reduction reduction{type, op};
      char* bytes = static_cast<char*>(data);
      if (count * reduction.width() <= kSmallBytes) {
        all_reduce_small(*peers, bytes, count, reduction);
      } else {
        all_reduce_large(*peers, bytes, count, reduction);
      }
    });
  }

  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    check_reduction(type, op);
    return begin("reduce_scatter", count, type, [=, peers = peers_] {
      const auto n = static_cast<size_t>(peers->size());
      const std::vector<int64_t> counts(n, count);
      std::vector<const char*> parts(n);
      for (size_t p = 0; p < n; ++p) {
        parts[p] =
            static_cast<const char*>(in) + static_cast<int64_t>(p) * count * dtype_bytes(type);
      }
      reduce_parts(*peers, parts, counts, static_cast<char*>(out), {type, op});
    });
  }

  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    check_collective_type(type);
    return begin("all_gather", count, type, [=, peers = peers_] {
      const int64_t width = dtype_bytes(type);
      char* mine = static_cast<char*>(out) + peers->rank() * count * width;
      if (in != mine) std::memcpy(mine, in, static_cast<size_t>(count * width));
      std::vector<int64_t> offsets, counts;
      for (int64_t p = 0; p < peers->size(); ++p) {
        offsets.push_back(p * count);
        counts.push_back(count);
      }
      gather_parts(*peers, static_cast<char*>(out), offsets, counts, width);
    });
  }

  std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                      int64_t root) override {
    check_collective_type(type);
    ASHLAR_CHECK(root >= 0 && root < size());
    return begin("broadcast", count, type, [=, peers = peers_] {
      broadcast_tree(*peers, static_cast<char*>(data), count * dtype_bytes(type), root);
    });
  }

  void barrier() override {
    // Owned by the work: when waiting fails, the thread may still be receiving.
    const auto marks = std::make_shared<std::vector<char>>(static_cast<size_t>(size()));
    begin("barrier", [marks, peers = peers_] {
      std::vector<int64_t> offsets(marks->size());
      std::iota(offsets.begin(), offsets.end(), 0);
      gather_parts(*peers, marks->data(), offsets, std::vector<int64_t>(marks->size(), 1), 1);
    })->wait();
  }

  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks,
                                      const std::string& name) override {
    const auto me = std::find(ranks.begin(), ranks.end(), rank_);
    ASHLAR_CHECK(me != ranks.end());
    ASHLAR_CHECK(std::adjacent_find(ranks.begin(), ranks.end(), std::greater_equal<>()) ==
                 ranks.end());
    std::vector<int64_t> members;
    std::string key = name_ + "/" + name;
    for (const int64_t r : ranks) {
      ASHLAR_CHECK(r >= 0 && r < size());
      members.push_back(ranks_[static_cast<size_t>(r)]);
      key += fmt::format(".{}", r);
    }
    return std::make_unique<GlooCommunicator>(store_, std::move(members), me - ranks.begin(), key,
                                              options_);
  }

 private:
  void connect() {
    auto made = std::make_shared<c10::intrusive_ptr<c10d::ProcessGroupGloo>>();
    const CollectiveInfo info{"connecting the group \"" + name_ + "\"", ranks_};
    const auto begin = std::chrono::steady_clock::now();
    const auto body = [made, raw = store_.raw().store, address = store_.address(), name = name_,
                       rank = rank_, size = size(), timeout = options_.timeout] {
      auto options = c10d::ProcessGroupGloo::Options::create();
      // Collectives are timed by the guard; Gloo's own clock must not run out before it.
      options->timeout = 10 * timeout;
      options->devices.push_back(make_device(address));
      *made = c10::make_intrusive<c10d::ProcessGroupGloo>(
          c10::make_intrusive<c10d::PrefixStore>("gloo/" + name, raw), static_cast<int>(rank),
          static_cast<int>(size), options);
    };
    bool ended = false;
    std::string error;
    try {
      ended = GuardedThread().run(body, 2 * options_.timeout, [&] {
        options_.guard->waiting(info, std::chrono::duration_cast<std::chrono::milliseconds>(
                                          std::chrono::steady_clock::now() - begin));
      });
    } catch (const Error&) {
      throw;
    } catch (const std::exception& caught) {
      error = std::string(caught.what()).substr(0, std::string(caught.what()).find('\n'));
    }
    if (!error.empty()) options_.guard->failed(info, error);
    require(ended, ErrorCode::kIo, "{} has not ended in time", info.name);
    group_ = *made;
    peers_ = std::make_shared<Peers>(group_, rank_, size());
  }

  std::unique_ptr<CommWork> begin(const char* what, int64_t count, DType type,
                                  std::function<void()> body) {
    ASHLAR_CHECK_GE(count, 0);
    return begin(fmt::format("{} of {} {}", what, count, dtype_name(type)), std::move(body));
  }

  std::unique_ptr<CommWork> begin(const std::string& name, std::function<void()> body) {
    return queue_.begin({name, ranks_}, [name, body = std::move(body), peers = peers_] {
      peers->enter(name);
      body();
    });
  }

  const TcpStore& store_;
  std::vector<int64_t> ranks_;  // of the run, by rank of this group
  int64_t rank_;
  std::string name_;
  GlooOptions options_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  std::shared_ptr<Peers> peers_;
  CommQueue queue_;
};

}  // namespace

std::unique_ptr<Communicator> make_gloo_communicator(const TcpStore& store, int64_t rank,
                                                     int64_t size, const GlooOptions& options) {
  std::vector<int64_t> ranks;
  for (int64_t r = 0; r < size; ++r) ranks.push_back(r);
  return std::make_unique<GlooCommunicator>(store, std::move(ranks), rank, "world", options);
}

}  // namespace ashlar

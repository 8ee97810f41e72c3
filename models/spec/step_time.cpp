#include "models/spec/step_time.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "core/base/checked.h"
#include "models/spec/training_pieces.h"

namespace ashlar {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

constexpr size_t kFlights = 3;  // train/dist/gradient_reducer.cpp
constexpr int kSmallCollectives = 3;

// What one piece gathers or sums: linear maps apart in bf16 runs.
struct Unit {
  double elements = 0;
  double bytes = 4;  // of an element of the copy that products read
};

struct Group {
  double ranks = 1;
  bool inside = false;
};

class Timeline {
 public:
  Timeline(const Link& inside, const Link& between) : links_{between, inside} {}

  /// Begins a ring of `rounds`·(k − 1) steps over `bytes` in all; returns its end.
  double begin(const Group& group, double rounds, double bytes) {
    if (group.ranks <= 1) return now_;
    const Link& link = links_[group.inside ? 1 : 0];
    double& free = free_[group.inside ? 1 : 0];
    const double steps = rounds * (group.ranks - 1), piece = bytes / group.ranks;
    const double seconds = steps * (link.latency + piece / link.bandwidth);
    out_.communication += seconds;
    out_.bytes_sent += steps * piece;
    free = std::max(free, now_) + seconds;
    return free;
  }
  void wait(double end, double StepTime::*where) {
    if (end <= now_) return;
    out_.exposed += end - now_;
    out_.*where += end - now_;
    now_ = end;
  }
  void compute(double seconds) {
    out_.compute += seconds;
    now_ += seconds;
  }
  const StepTime& result() const { return out_; }

 private:
  Link links_[2];
  double free_[2] = {0, 0};
  double now_ = 0;
  StepTime out_;
};

class StepModel {
 public:
  StepModel(const ModelSpec& spec, const RunShape& run, const PlanOptions& options)
      : run_(run),
        pieces_(training_pieces(spec, run, shards_of(run, options.ranks))),
        time_(link(options, true), link(options, false)) {
    const Device& device = find_device(options.device);
    const int64_t shards = shards_of(run, options.ranks), world = options.ranks;
    const int64_t node =
        options.ranks_per_node > 0 ? options.ranks_per_node : device.ranks_per_node;
    // Neighbouring ranks share a copy; nodes are filled one after another.
    shard_ = {real(shards), shards <= node && (node % shards == 0 || world <= node)};
    world_ = {real(world), world <= node};
    replica_ = {real(world / shards), world <= node};
    whole_ = run.zero < 2 && run.sums != SumType::kOrdered;
    passes_ = ceil_div(ceil_div(run.batch_size, run.micro_batch), world);
    share_ = run.trained_parameters > 0 ? real(run.trained_parameters) / elements() : 1;
    time_pieces(spec, options.flops_per_second > 0
                          ? options.flops_per_second
                          : (run.bf16 ? device.bf16_peak : device.fp32_peak) * device.utilisation);
  }

  StepTime play() {
    small_collective();
    for (int64_t pass = 0; pass < passes_; ++pass) {
      forward(pass == 0);
      backward(pass + 1 == passes_);
    }
    for (int i = 1; i < kSmallCollectives; ++i) small_collective();
    if (run_.gathers_updates) gather_updates();
    return time_.result();
  }

 private:
  struct Flight {
    double end = 0, elements = 0;
  };

  static Link link(const PlanOptions& options, bool inside) {
    const Device& device = find_device(options.device);
    const Link& other = inside ? options.inside : options.between;
    Link link = inside ? device.inside : device.between;
    if (other.bandwidth > 0) link.bandwidth = other.bandwidth;
    if (other.latency > 0) link.latency = other.latency;
    return link;
  }

  double elements() const {
    double sum = 0;
    for (const TrainingPiece& p : pieces_) sum += p.elements();
    return sum;
  }

  // Seconds of one pass through each piece.
  void time_pieces(const ModelSpec& spec, double rate) {
    const double samples = real(std::min(passes_ * run_.micro_batch, run_.batch_size));
    const double tokens = samples * real(run_.context) / real(passes_);
    double sum = 0;
    for (const TrainingPiece& p : pieces_) sum += p.flops_per_token;
    const double all = training_flops(spec, run_.context).total();
    for (const TrainingPiece& p : pieces_) {
      seconds_.push_back(p.flops_per_token / sum * all * tokens / rate);
    }
  }

  std::vector<Unit> units(size_t piece) const {
    const TrainingPiece& p = pieces_[piece];
    std::vector<Unit> out;
    if (!run_.bf16) {
      out.push_back({p.elements(), 4});
    } else {
      if (p.linear > 0) out.push_back({p.linear, run_.zero > 0 ? 2.0 : 4.0});
      if (p.rest > 0) out.push_back({p.rest, 4});
    }
    return out;
  }

  double gather(size_t piece) {
    double end = 0;
    for (const Unit& u : units(piece)) end = time_.begin(shard_, 1, u.elements * u.bytes);
    return end;
  }

  void forward(bool first) {
    const bool gathers = run_.zero >= 3 || (run_.zero >= 1 && first);
    double ready = gathers ? gather(0) : 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      time_.wait(ready, &StepTime::exposed_forward);
      if (gathers && i + 1 < pieces_.size()) ready = gather(i + 1);
      time_.compute(seconds_[i]);
    }
  }

  void backward(bool last) {
    const bool gathers = run_.zero >= 3;
    double ready = 0;  // the head's copy is still there
    for (size_t i = pieces_.size(); i-- > 0;) {
      time_.wait(ready, &StepTime::exposed_backward);
      if (gathers && i > 0) ready = gather(i - 1);
      time_.compute((pieces_[i].recompute ? 3 : 2) * seconds_[i]);
      if (!whole_ || last) {
        for (const Unit& u : units(i)) launch(share_ * u.elements, last);
      }
    }
    while (!flights_.empty()) land(last, &StepTime::exposed_end);
  }

  void launch(double elements, bool last) {
    const double bytes = run_.sums == SumType::kBf16 ? 2 : 4;
    Flight flight{0, elements};
    if (run_.sums == SumType::kOrdered) {
      flight.end = time_.begin(world_, 1, elements * 4 * world_.ranks);
    } else if (shard_.ranks > 1) {
      flight.end = time_.begin(shard_, 1, elements * bytes);
    } else if (last && whole_) {
      flight.end = time_.begin(replica_, 2, elements * bytes);
    }
    flights_.push_back(flight);
    while (!whole_ && flights_.size() > kFlights) land(last, &StepTime::exposed_backward);
  }

  void land(bool last, double StepTime::*where) {
    const Flight flight = flights_.front();
    flights_.pop_front();
    time_.wait(flight.end, where);
    if (run_.sums == SumType::kOrdered || !last || (whole_ && shard_.ranks == 1)) return;
    const double bytes = run_.sums == SumType::kBf16 ? 2 : 4;
    time_.wait(time_.begin(replica_, 2, flight.elements / shard_.ranks * bytes), where);
  }

  void gather_updates() {
    for (const TrainingPiece& p : pieces_) {
      if (p.activations == 0) continue;  // Muon updates matrices inside layers
      time_.wait(time_.begin(shard_, 1, 4 * share_ * p.linear), &StepTime::exposed_end);
    }
  }

  void small_collective() { time_.wait(time_.begin(world_, 1, 0), &StepTime::exposed_end); }

  const RunShape& run_;
  std::vector<TrainingPiece> pieces_;
  Timeline time_;
  Group shard_, replica_, world_;
  bool whole_ = true;
  int64_t passes_ = 1;
  double share_ = 1;
  std::vector<double> seconds_;
  std::deque<Flight> flights_;
};

}  // namespace

StepTime step_time(const ModelSpec& spec, const RunShape& run, const PlanOptions& options) {
  return StepModel(spec, run, options).play();
}

}  // namespace ashlar

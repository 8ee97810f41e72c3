#include <algorithm>

#include "core/base/error.h"
#include "models/spec/parameters.h"
#include "models/spec/training_pieces.h"

// The formulas are stated at TrainingMemory; what they describe is train/dist and
// train/stage_runner.cpp.

namespace ashlar {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

constexpr double kFlights = 4;       // units under way where whole gradients are not kept
constexpr double kLogitRows = 512;   // attention/ops.cpp
constexpr double kMuonMatrices = 6;  // copies of a matrix in Newton-Schulz steps

class MemoryPlan {
 public:
  MemoryPlan(const ModelSpec& spec, const RunShape& run, int64_t ranks)
      : spec_(spec),
        run_(run),
        ranks_(real(ranks)),
        shards_(real(shards_of(run, ranks))),
        pieces_(training_pieces(spec, run, shards_of(run, ranks))) {
    for (const TrainingPiece& p : pieces_) {
      n_ += p.elements();
      linear_ += p.linear;
    }
    const double all = real(parameter_count(spec));
    share_ = run.trained_parameters > 0 ? real(run.trained_parameters) / all : 1;
    whole_ = run.zero < 2 && run.sums != SumType::kOrdered;
    // Logits, and the head's gradient from before the backward pass on.
    const double width = real(spec.token_stack().d_model), classes = real(spec.vocab_size);
    const double rows = std::min(kLogitRows, real(run.context) * real(run.micro_batch));
    table_ = 4 * classes * width;
    head_ = (run.bf16 ? 8.0 : 4.0) * classes * width + (run.bf16 ? 2.0 : 4.0) * classes * rows;
  }

  TrainingMemory plan() {
    TrainingMemory out;
    out.weights = weights();
    out.gradients = share_ * 4 * n_ / (whole_ ? 1 : shards_);
    out.optimizer = share_ * 4 * n_ / shards_ * run_.optimizer_values;
    out.average = run_.average ? share_ * 4 * n_ / shards_ : 0;
    if (run_.checkpoint_copy) {
      out.checkpoint = (share_ * 4 * n_ + (out.optimizer + out.average) * shards_) / ranks_;
    }
    worst_moment(out);
    return out;
  }

 private:
  double weights() const {
    if (run_.zero >= 3) return 4 * n_ / shards_;
    if (!run_.bf16 || run_.zero == 0) return 4 * n_;
    const double rest = n_ - linear_;
    return 4 * linear_ / shards_ + 2 * linear_ + 4 * rest;
  }

  // Whole copies that exist between acquire and release alone.
  double gathered(size_t piece) const {
    if (run_.zero < 3) return 0;
    const auto bytes = [&](const TrainingPiece& p) {
      return (run_.bf16 ? 2 : 4) * p.linear + 4 * p.rest;
    };
    double sum = bytes(pieces_[piece]);
    if (piece > 0) sum += bytes(pieces_[piece - 1]);
    return sum;
  }

  // bf16 copies of weights that the graph keeps, up to `piece`.
  double copies(size_t piece) const {
    if (!run_.bf16 || run_.zero > 0) return 0;
    double sum = 0;
    for (size_t i = 0; i < pieces_.size() && i <= piece; ++i) {
      if (i == piece || !pieces_[i].recompute) sum += 2 * pieces_[i].linear;
    }
    return sum;
  }

  // Gradients on their way when `piece` has run backward.
  double under_way(size_t piece) const {
    double behind = 0;  // elements of pieces that are through, this one included
    const size_t window = whole_ ? pieces_.size() : static_cast<size_t>(kFlights);
    for (size_t i = piece; i < pieces_.size() && i < piece + window; ++i) {
      behind += share_ * pieces_[i].elements();
    }
    const bool narrow = run_.sums == SumType::kBf16;
    if (run_.sums == SumType::kOrdered) return behind * 4 * (1 + ranks_);
    if (whole_) {
      if (narrow) return behind * (2 + (shards_ > 1 ? 2 / shards_ : 0));
      return shards_ > 1 ? behind * 4 / shards_ : 0;
    }
    const double sent = narrow ? 2 : 4;
    return behind * (sent + (shards_ > 1 ? sent / shards_ : 0)) +
           (narrow ? 4 * share_ * pieces_[piece].elements() : 0);
  }

  // The gradients a stage's backward pass returns, before they are added.
  double returned(size_t piece) const {
    const TrainingPiece& p = pieces_[piece];
    const double narrow = run_.bf16 && run_.zero > 0 ? 2 : 4;
    return share_ * (narrow * p.linear + 4 * p.rest);
  }

  // After the last pass: sums beside whole gradients.
  double results() const {
    if (!whole_) return 0;
    if (run_.sums == SumType::kBf16) return share_ * (4 * n_ / shards_ + 2 * largest());
    return shards_ > 1 ? share_ * 4 * n_ / shards_ : 0;
  }

  double largest() const {
    double most = 0;
    for (const TrainingPiece& p : pieces_) most = std::max(most, p.elements());
    return most;
  }

  double update() const {
    if (!run_.gathers_updates) return 0;
    double unit = 0;
    for (const TrainingPiece& p : pieces_) unit = std::max(unit, p.linear);
    double matrix = 0;
    for (const ParameterSpec& p : parameters(spec_)) {
      if (p.is_linear() && p.layer >= 0) matrix = std::max(matrix, real(p.numel()));
    }
    return 4 * (unit + (shards_ > 1 ? unit / shards_ : 0) + kMuonMatrices * matrix);
  }

  void worst_moment(TrainingMemory& out) const {
    out.transient = results() + update();
    double worst = out.transient, kept = 0;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const TrainingPiece& p = pieces_[i];
      const bool head = i + 1 == pieces_.size();
      const double activations = kept + p.activations;
      // A tied head's gradient waits in the token table's until that one's turn.
      const double work = copies(i) + (head ? head_ : spec_.tied_head && !whole_ ? table_ : 0);
      const double transient = gathered(i) + under_way(i) + (head ? 0 : returned(i));
      if (activations + work + transient >= worst) {
        worst = activations + work + transient;
        out.activations = activations;
        out.compute_copies = work;
        out.transient = transient;
      }
      kept += p.kept();
    }
  }

  const ModelSpec& spec_;
  const RunShape& run_;
  double ranks_, shards_;
  std::vector<TrainingPiece> pieces_;
  double n_ = 0, linear_ = 0, share_ = 1, head_ = 0, table_ = 0;
  bool whole_ = true;
};

}  // namespace

double TrainingMemory::tensors() const {
  return weights + gradients + optimizer + average + transient + compute_copies + activations;
}

double TrainingMemory::total() const { return tensors() + checkpoint; }

int64_t shards_of(const RunShape& run, int64_t ranks) {
  if (run.zero == 0) return 1;
  if (run.shard_ranks == 0) return ranks;
  require(run.shard_ranks <= ranks && ranks % run.shard_ranks == 0, ErrorCode::kRequest,
          "distributed.shard_ranks: {} does not divide {} ranks", run.shard_ranks, ranks);
  return run.shard_ranks;
}

TrainingMemory training_memory(const ModelSpec& spec, const RunShape& run, int64_t ranks) {
  return MemoryPlan(spec, run, ranks).plan();
}

}  // namespace ashlar

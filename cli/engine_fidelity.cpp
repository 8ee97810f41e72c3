#include "cli/engine_fidelity.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/shared_prompt.h"
#include "core/base/error.h"
#include "kernels/elementwise.h"

namespace ashlar::cli {
namespace {

/// Drops nothing and keeps the newest query's attention probabilities of every lane.
class AttentionRecorder final : public Policy {
 public:
  struct Lane {
    int64_t newest = -1;
    std::vector<int32_t> positions;
    std::vector<float> probabilities;
  };
  AttentionRecorder() : Policy({.reducer = ScoreReducer::kLast, .per_head = true}) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit>) const override {
    std::vector<Lane>& out = lanes_[lanes.front().group];
    out.clear();
    for (const LaneView& lane : lanes) {
      out.push_back({lane.newest,
                     {lane.positions.begin(), lane.positions.end()},
                     {lane.scores.begin(), lane.scores.end()}});
    }
  }
  /// Lanes of the heads of `group` as the last step left them; empty when it added no row.
  const std::vector<Lane>& lanes(int64_t group) const { return lanes_[group]; }
  void clear() { lanes_.clear(); }

 private:
  mutable std::map<int64_t, std::vector<Lane>> lanes_;
};

double relative_error(std::span<const float> test, std::span<const float> full) {
  ASHLAR_CHECK_EQ(test.size(), full.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < full.size(); ++i) {
    const double reference = static_cast<double>(full[i]);
    error += std::pow(static_cast<double>(test[i]) - reference, 2);
    norm += reference * reference;
  }
  return norm == 0 ? (error == 0 ? 0.0 : 1.0) : std::sqrt(error / norm);
}

using LayerId = std::pair<int64_t, int64_t>;  // stack, layer

/// The attention outputs of what was fed last.
class OutputRecorder final : public AttentionObserver {
 public:
  void attended(const KvGroup& group, int64_t layer, std::span<const float> out, int64_t) override {
    outputs[{group.stack, layer}].assign(out.begin(), out.end());
  }
  /// Of this run against the full one; absent when the step did not run the layer.
  std::optional<double> error(const OutputRecorder& full, const LayerId& layer) const {
    const auto own = outputs.find(layer), reference = full.outputs.find(layer);
    ASHLAR_CHECK_EQ(own == outputs.end(), reference == full.outputs.end());
    if (own == outputs.end()) return std::nullopt;
    return relative_error(own->second, reference->second);
  }

  std::map<LayerId, std::vector<float>> outputs;
};

/// KL(full ‖ test) of the distributions of two rows of logits, in nats.
double divergence(std::span<const float> full, std::span<const float> test) {
  const auto n = static_cast<int64_t>(full.size());
  const double full_norm = log_sum_exp(full.data(), n), test_norm = log_sum_exp(test.data(), n);
  double sum = 0;
  for (size_t i = 0; i < full.size(); ++i) {
    const double log_p = static_cast<double>(full[i]) - full_norm;
    const double log_q = static_cast<double>(test[i]) - test_norm;
    sum += std::exp(log_p) * (log_p - log_q);
  }
  return sum;
}

/// One of the runs of a text.
struct Run {
  std::unique_ptr<Sequence> sequence;
  OutputRecorder recorder;

  void feed(Engine& engine, std::span<const int32_t> tokens) {
    recorder.outputs.clear();
    engine.set_observer(&recorder);
    const StepItem item{sequence.get(), tokens, true, nullptr};
    engine.feed(std::span(&item, 1));
    engine.set_observer(nullptr);
  }
};

class EngineProbe final : public FidelityProbe {
 public:
  explicit EngineProbe(EngineScorer& scorer) : scorer_(scorer), engine_(scorer.engine()) {
    const ModelSpec& spec = engine_.spec();
    for (size_t s = 0; s < spec.stacks.size(); ++s) {
      if (spec.stacks[s].role == StackRole::kEncoder) continue;
      const char* prefix = !spec.block ? "layer" : s == 0 ? "block layer" : "token layer";
      for (size_t l = 0; l < spec.stacks[s].layers.size(); ++l) {
        layers_.emplace_back(s, l);
        layer_names_.push_back(fmt::format("{} {}", prefix, l));
      }
    }
    for (const KvGroup& group : engine_.groups()) {
      if (group.lifetime != KvLifetime::kSequence) continue;
      groups_.push_back(&group);
      group_names_.push_back(fmt::format("kv group {}", group.id));
    }
  }

  std::vector<std::string> layers() const override { return layer_names_; }
  std::vector<std::string> groups() const override { return group_names_; }
  std::vector<Arm> arms() const override { return scorer_.arms(); }

  std::vector<FidelityBytes> compare(
      const ScoreText& text,
      const std::function<void(size_t arm, const FidelityRow& row)>& visit) override {
    const auto n = static_cast<int64_t>(text.tokens.size());
    const auto tokens = std::span<const int32_t>(text.tokens);
    const auto attention = std::make_shared<AttentionRecorder>();
    Run full{engine_.start({CodecKind::kF32, CodecKind::kF32}, attention, text.marker), {}};
    const TextCaches caches = scorer_.caches(text);
    std::vector<Run> tests = read_prompt(text, caches.of_arm);
    if (reads_prompt(text)) full.feed(engine_, tokens.first(static_cast<size_t>(text.prompt)));
    std::vector<FidelityBytes> bytes;
    for (const Run& test : tests) bytes.push_back({test.sequence->kv_bytes(), 0});
    for (int64_t i = text.prompt; i + 1 < n; ++i) {
      const auto token = tokens.subspan(static_cast<size_t>(i), 1);
      attention->clear();
      full.feed(engine_, token);
      for (size_t arm = 0; arm < tests.size(); ++arm) {
        const Kept kept = kept_rows(tests[arm].sequence->cache());
        tests[arm].feed(engine_, token);
        visit(arm, row_of(tests[arm], full, *attention, kept));
      }
    }
    for (size_t arm = 0; arm < tests.size(); ++arm)
      bytes[arm].end = tests[arm].sequence->kv_bytes();
    return bytes;
  }

 private:
  /// Positions, ascending, that each head of each group holds when the next row comes.
  using Kept = std::vector<std::vector<std::vector<int32_t>>>;

  static bool reads_prompt(const ScoreText& text) { return text.prompt > 0 || text.marker; }

  /// A run of every arm that has read the prompt, as far as there is one.
  std::vector<Run> read_prompt(const ScoreText& text, std::span<const CacheChoice* const> caches) {
    std::vector<Run> runs(caches.size());
    if (!reads_prompt(text)) {
      for (size_t arm = 0; arm < caches.size(); ++arm) {
        const CacheChoice& cache = *caches[arm];
        runs[arm].sequence = engine_.start(cache.options, cache.policy, text.marker);
      }
      return runs;
    }
    const auto prompt =
        std::span<const int32_t>(text.tokens).first(static_cast<size_t>(text.prompt));
    for (const PromptClass& one : prompt_classes(caches)) {
      auto read = engine_.start(one.reader->options, one.reader->policy, text.marker);
      const StepItem item{read.get(), prompt, !one.shared(), nullptr};
      engine_.feed(std::span(&item, 1));
      auto ended = end_prompt(engine_, one, caches, std::move(read));
      for (size_t m = 0; m < one.members.size(); ++m) {
        runs[one.members[m]].sequence = std::move(ended[m]);
      }
    }
    return runs;
  }

  FidelityRow row_of(const Run& test, const Run& full, const AttentionRecorder& attention,
                     const Kept& kept) const {
    FidelityRow row = compare_logits(test, full);
    for (const LayerId& layer : layers_) {
      row.output_error.push_back(test.recorder.error(full.recorder, layer));
    }
    for (size_t g = 0; g < groups_.size(); ++g) {
      row.retained_mass.push_back(retained(attention.lanes(groups_[g]->id), kept[g]));
    }
    return row;
  }

  Kept kept_rows(const SequenceCache& cache) const {
    Kept kept;
    for (const KvGroup* group : groups_) {
      auto& heads = kept.emplace_back();
      if (cache.policy() == nullptr || group->window > 0) continue;
      for (int64_t h = 0; h < group->heads; ++h) {
        const auto positions = cache.positions(group->id, h);
        std::vector<int32_t>& rows = heads.emplace_back(positions.begin(), positions.end());
        std::sort(rows.begin(), rows.end());
      }
    }
    return kept;
  }

  // A query sees its own row, whatever is dropped after it.
  static std::optional<double> retained(const std::vector<AttentionRecorder::Lane>& lanes,
                                        const std::vector<std::vector<int32_t>>& kept) {
    if (lanes.empty()) return std::nullopt;
    if (kept.empty()) return 1;
    double sum = 0;
    for (size_t h = 0; h < lanes.size(); ++h) {
      const AttentionRecorder::Lane& lane = lanes[h];
      double held = 0, all = 0;
      for (size_t s = 0; s < lane.positions.size(); ++s) {
        const int32_t position = lane.positions[s];
        const auto probability = static_cast<double>(lane.probabilities[s]);
        all += probability;
        if (position == lane.newest || std::binary_search(kept[h].begin(), kept[h].end(), position))
          held += probability;
      }
      sum += all > 0 ? held / all : 1;
    }
    return sum / static_cast<double>(lanes.size());
  }

  FidelityRow compare_logits(const Run& test, const Run& full) const {
    const auto a = engine_.logits(*test.sequence), b = engine_.logits(*full.sequence);
    FidelityRow row;
    row.kl = divergence(b, a);
    row.agrees = std::max_element(a.begin(), a.end()) - a.begin() ==
                 std::max_element(b.begin(), b.end()) - b.begin();
    return row;
  }

  EngineScorer& scorer_;
  Engine& engine_;
  std::vector<LayerId> layers_;
  std::vector<const KvGroup*> groups_;
  std::vector<std::string> layer_names_, group_names_;
};

}  // namespace

std::unique_ptr<FidelityProbe> make_fidelity_probe(EngineScorer& scorer) {
  return std::make_unique<EngineProbe>(scorer);
}

}  // namespace ashlar::cli

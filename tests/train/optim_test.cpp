#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <barrier>
#include <cmath>
#include <thread>

#include "core/base/rng.h"
#include "tests/support/tolerance.h"
#include "train/optim/ema.h"
#include "train/optim/norm.h"
#include "train/optim/optimizer.h"
#include "train/optim/orthogonal.h"

namespace ashlar {
namespace {

using Matrix = std::vector<std::vector<double>>;
using Role = ParameterRole;

constexpr uint64_t kSeed = 7;
constexpr int64_t kSteps = 3;

// Two units: one with matrices, cut anywhere, and one without.
const std::vector<ParameterSpec> kSpecs = {
    {"norm", {37}, Role::kAttentionNorm, 0, 0}, {"wide", {40, 211}, Role::kUp, 0, 0},
    {"bias", {13}, Role::kUpBias, 0, 0},        {"tall", {150, 60}, Role::kDown, 0, 0},
    {"table", {100, 67}, Role::kEmbedding},     {"final", {67}, Role::kFinalNorm},
};
std::vector<UnitLayout> layouts(int64_t shards) {
  std::vector<std::pair<size_t, int64_t>> sizes;
  for (size_t i = 0; i < kSpecs.size(); ++i) sizes.emplace_back(i, kSpecs[i].numel());
  const std::span<const std::pair<size_t, int64_t>> all = sizes;
  return {make_unit_layout("layer", all.first(4), shards),
          make_unit_layout("table", all.subspan(4), shards)};
}

double drawn(uint64_t what, size_t parameter, int64_t element) {
  return Philox(kSeed, 100 * what + parameter).normal(static_cast<uint64_t>(element));
}

// Value `what` of every element of a slice; padding stays 0.
void fill(const UnitLayout& layout, UnitLayout::Range range, uint64_t what, const at::Tensor& out) {
  for (const auto& piece : layout.pieces(range)) {
    for (int64_t i = 0; i < piece.count; ++i) {
      out.data_ptr<float>()[piece.at + i] =
          static_cast<float>(drawn(what, piece.parameter, piece.first + i));
    }
  }
}

// One rank of `shards`; gathering goes through memory that all of them see.
class Ranks {
 public:
  explicit Ranks(int64_t shards) : layouts_(layouts(shards)), shards_(shards), meet_(shards) {
    for (const UnitLayout& layout : layouts_) {
      shared_.push_back(at::zeros({layout.size}));
      result_.push_back(at::zeros({layout.size}));
    }
  }

  // Values of all units after kSteps; `body(units, step)` makes one.
  template <typename Make>
  std::vector<std::vector<float>> run(const Make& make) {
    std::vector<std::thread> threads;
    for (int64_t r = 0; r < shards_; ++r) threads.emplace_back([&, r] { rank(r, make); });
    for (std::thread& thread : threads) thread.join();
    std::vector<std::vector<float>> out(kSpecs.size());
    for (size_t u = 0; u < layouts_.size(); ++u) {
      for (const auto& part : layouts_[u].parts) {
        const float* values = result_[u].data_ptr<float>() + part.offset;
        out[part.parameter].assign(values, values + part.numel);
      }
    }
    return out;
  }
  int gathered(size_t unit) const { return gathered_[unit]; }

 private:
  template <typename Make>
  void rank(int64_t r, const Make& make) {
    std::vector<UnitSlice> units;
    for (const UnitLayout& layout : layouts_) {
      const auto range = layout.slice(r, shards_);
      units.push_back({&layout, range, at::zeros({range.size()}), at::zeros({range.size()})});
      fill(layout, range, 0, units.back().values);
    }
    const auto step = make(units);
    for (int64_t n = 1; n <= kSteps; ++n) {
      for (const UnitSlice& unit : units) {
        fill(*unit.layout, unit.range, static_cast<uint64_t>(n), unit.gradients);
      }
      const auto gather = [&](size_t unit, const at::Tensor& slice) {
        const auto range = units[unit].range;
        shared_[unit].narrow(0, range.begin, range.size()).copy_(slice);
        meet_.arrive_and_wait();
        if (r == 0) ++gathered_[unit];
        const at::Tensor whole = shared_[unit].clone();
        meet_.arrive_and_wait();
        return whole;
      };
      step(units, OptimizerStep{n, 0.01 * static_cast<double>(n), gather});
    }
    for (size_t u = 0; u < units.size(); ++u) {
      result_[u].narrow(0, units[u].range.begin, units[u].range.size()).copy_(units[u].values);
    }
  }

  std::vector<UnitLayout> layouts_;
  int64_t shards_;
  std::barrier<> meet_;
  std::vector<at::Tensor> shared_, result_;
  int gathered_[2] = {};
};

std::vector<std::vector<float>> optimized(Ranks& ranks, const OptimizerConfig& config) {
  return ranks.run([&](const std::vector<UnitSlice>& units) {
    return [optimizer = std::shared_ptr<Optimizer>(make_optimizer(config, kSpecs, units))](
               const std::vector<UnitSlice>& now, const OptimizerStep& step) {
      optimizer->step(now, step);
    };
  });
}

OptimizerConfig config_of(OptimizerKind kind) {
  OptimizerConfig config;
  config.kind = kind;
  config.lr = 1;
  config.adamw.lr = 0.5;
  config.weight_decay = 0.3;
  config.groups = {{"tall", 0.1, 2.0}};
  return config;
}

TEST(Optimizers, BitsDoNotDependOnTheCut) {
  for (const auto kind : {OptimizerKind::kAdamW, OptimizerKind::kLion, OptimizerKind::kMuon}) {
    Ranks alone(1);
    const auto whole = optimized(alone, config_of(kind));
    EXPECT_EQ(alone.gathered(0), 0);
    for (const int64_t shards : {2, 3, 4}) {
      Ranks ranks(shards);
      EXPECT_EQ(optimized(ranks, config_of(kind)), whole)
          << "kind " << static_cast<int>(kind) << ", " << shards << " shards";
      EXPECT_EQ(ranks.gathered(0), kind == OptimizerKind::kMuon ? kSteps : 0);
      EXPECT_EQ(ranks.gathered(1), 0) << "no matrix inside a layer";
    }
  }
}

// Algorithm 2 of arXiv 2302.06675 in double. The sign of a sum near 0 may differ; none is here.
TEST(Lion, EqualsADoubleVersion) {
  const OptimizerConfig config = config_of(OptimizerKind::kLion);
  Ranks ranks(2);
  const auto actual = optimized(ranks, config);
  for (size_t p = 0; p < kSpecs.size(); ++p) {
    const bool tall = kSpecs[p].name == "tall";
    const double decay = tall ? 0.1 : kSpecs[p].is_matrix() ? 0.3 : 0.0;
    std::vector<double> expected;
    for (int64_t i = 0; i < kSpecs[p].numel(); ++i) {
      double x = drawn(0, p, i), m = 0;
      for (int64_t n = 1; n <= kSteps; ++n) {
        const double g = drawn(static_cast<uint64_t>(n), p, i);
        const double c = config.beta1 * m + (1 - config.beta1) * g;
        const double lr = 0.01 * static_cast<double>(n) * (tall ? 2 : 1);
        x -= lr * ((c > 0 ? 1 : c < 0 ? -1 : 0) + decay * x);
        m = config.beta2 * m + (1 - config.beta2) * g;
      }
      expected.push_back(x);
    }
    EXPECT_TRUE(test::within(actual[p], expected, test::reordered<float>(4.0 * kSteps, 6)))
        << kSpecs[p].name;
  }
}

Matrix product(const Matrix& a, const Matrix& b, bool transposed) {
  const size_t cols = transposed ? b.size() : b[0].size();
  Matrix out(a.size(), std::vector<double>(cols));
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < cols; ++j) {
      for (size_t k = 0; k < a[0].size(); ++k) {
        out[i][j] += a[i][k] * (transposed ? b[j][k] : b[k][j]);
      }
    }
  }
  return out;
}

// Newton–Schulz as the blog writes it, without the transposition of tall matrices.
Matrix orthogonal(Matrix x) {
  double norm = 0;
  for (const auto& row : x) {
    for (double v : row) norm += v * v;
  }
  norm = std::sqrt(norm) + 1e-7;
  for (auto& row : x) {
    for (double& v : row) v /= norm;
  }
  for (int i = 0; i < 5; ++i) {
    const Matrix gram = product(x, x, true);
    Matrix sum = product(gram, gram, false);
    for (size_t r = 0; r < sum.size(); ++r) {
      for (size_t c = 0; c < sum.size(); ++c) sum[r][c] = 2.0315 * sum[r][c] - 4.775 * gram[r][c];
      sum[r][r] += 3.4445;
    }
    x = product(sum, x, false);
  }
  return x;
}

TEST(Muon, EqualsADoubleVersion) {
  for (const MuonScale scale : {MuonScale::kRms, MuonScale::kOriginal}) {
    OptimizerConfig config = config_of(OptimizerKind::kMuon);
    config.scale = scale;
    Ranks ranks(3);
    const auto actual = optimized(ranks, config);
    for (const size_t p : {1, 3}) {
      const double rows = static_cast<double>(kSpecs[p].shape[0]);
      const double cols = static_cast<double>(kSpecs[p].shape[1]);
      const double factor = scale == MuonScale::kRms ? 0.2 * std::sqrt(std::max(rows, cols))
                                                     : std::sqrt(std::max(1.0, rows / cols));
      const double decay = p == 3 ? 0.1 : 0.3, lr_scale = p == 3 ? 2 : 1;
      Matrix x(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(cols))), m = x;
      const auto element = [&](size_t r, size_t c) {
        return static_cast<int64_t>(r * x[0].size() + c);
      };
      for (int64_t n = 0; n <= kSteps; ++n) {
        Matrix update = x;
        for (size_t r = 0; r < x.size(); ++r) {
          for (size_t c = 0; c < x[0].size(); ++c) {
            const double drawn_value = drawn(static_cast<uint64_t>(n), p, element(r, c));
            if (n == 0) {
              x[r][c] = drawn_value;
              continue;
            }
            m[r][c] = config.momentum * m[r][c] + drawn_value;
            update[r][c] = drawn_value + config.momentum * m[r][c];
          }
        }
        if (n == 0) continue;
        update = orthogonal(update);
        const double lr = 0.01 * static_cast<double>(n) * lr_scale;
        for (size_t r = 0; r < x.size(); ++r) {
          for (size_t c = 0; c < x[0].size(); ++c) {
            x[r][c] -= lr * (factor * update[r][c] + decay * x[r][c]);
          }
        }
      }
      std::vector<double> expected;
      for (const auto& row : x) expected.insert(expected.end(), row.begin(), row.end());
      // Updates: 15 products over the longer side, whose rows have norms near 1, each stretched by
      // at most φ'(0); values: a few roundings of numbers below 6.
      const double updates =
          test::reordered<float>(std::max(rows, cols), 15 * 3.4445 * factor).absolute * 0.01 *
          (1 + 2 + 3) * lr_scale;
      const double values = test::reordered<float>(4.0 * kSteps, 6).absolute;
      EXPECT_TRUE(test::within(actual[p], expected, {updates + values, "reordered, derived"}))
          << kSpecs[p].name;
    }
  }
}

// On a diagonal the iteration is a polynomial of each entry, in exact arithmetic.
TEST(Muon, BringsSingularValuesNearOneAndKeepsZeros) {
  const std::vector<double> singular = {3.0, -1.0, 0.5, 0.1};
  const at::Tensor matrix = at::zeros({4, 6});
  double norm = 0;
  for (double s : singular) norm += s * s;
  norm = std::sqrt(norm);
  for (int64_t i = 0; i < 4; ++i) {
    matrix[i][i].fill_(singular[static_cast<size_t>(i)]);
  }
  const at::Tensor wide = orthogonalize(matrix, 5);
  const at::Tensor tall = orthogonalize(matrix.t().contiguous(), 5);
  EXPECT_TRUE(at::equal(tall.t(), wide));
  for (int64_t i = 0; i < 4; ++i) {
    double s = singular[static_cast<size_t>(i)] / norm;
    for (int n = 0; n < 5; ++n) s = 3.4445 * s - 4.775 * s * s * s + 2.0315 * std::pow(s, 5);
    EXPECT_NEAR(wide[i][i].item<double>(), s, test::reordered<float>(5 * 6, 3.4445).absolute);
    EXPECT_GT(std::abs(s), 0.6);
    EXPECT_LT(std::abs(s), 1.3);
  }
  EXPECT_TRUE(at::equal(orthogonalize(at::zeros({3, 5}), 5), at::zeros({3, 5})));
}

TEST(WeightAverage, IsTheFormulaWhateverTheCut) {
  EmaConfig config;
  config.decay = 0.4;
  config.warmup = true;
  const auto averaged = [&](int64_t shards) {
    Ranks ranks(shards);
    return ranks.run([&](const std::vector<UnitSlice>& units) {
      return [average = std::make_shared<WeightAverage>(config, units)](
                 const std::vector<UnitSlice>& now, const OptimizerStep& step) {
        for (const UnitSlice& unit : now) unit.values.add_(unit.gradients);
        average->update(now, step.step);
        if (step.step == kSteps) average->swap(now);
      };
    });
  };
  const auto whole = averaged(1);
  for (const int64_t shards : {2, 3, 4}) EXPECT_EQ(averaged(shards), whole) << shards;
  EXPECT_EQ(ema_decay(config, 1), 2.0 / 11.0);
  EXPECT_EQ(ema_decay(config, 5), 0.4);  // 6/15
  EXPECT_EQ(ema_decay(config, 100), 0.4);
  for (size_t p = 0; p < kSpecs.size(); ++p) {
    std::vector<double> expected;
    for (int64_t i = 0; i < kSpecs[p].numel(); ++i) {
      double value = drawn(0, p, i), average = value;
      for (int64_t n = 1; n <= kSteps; ++n) {
        value += drawn(static_cast<uint64_t>(n), p, i);
        const double d = std::min(0.4, static_cast<double>(1 + n) / static_cast<double>(10 + n));
        average = d * average + (1 - d) * value;
      }
      expected.push_back(average);
    }
    EXPECT_TRUE(test::within(whole[p], expected, test::reordered<float>(4.0 * kSteps, 12)));
  }
}

TEST(WeightAverage, UpdatesEveryNthStepAndSwapsBack) {
  EmaConfig config;
  config.decay = 0.5;
  config.every = 2;
  const UnitLayout layout =
      make_unit_layout("unit", std::vector<std::pair<size_t, int64_t>>{{0, 5}}, 1);
  const at::Tensor values = at::zeros({layout.size});
  const std::vector<UnitSlice> units = {{&layout, {0, layout.size}, values, {}}};
  WeightAverage average(config, units);
  values.fill_(4);
  average.update(units, 1);
  EXPECT_EQ(average.state()[0].values[0].item<float>(), 0);
  average.update(units, 2);
  EXPECT_EQ(average.state()[0].values[0].item<float>(), 2);
  EXPECT_EQ(average.state()[0].values.numel(), 5);
  average.swap(units);
  EXPECT_EQ(values[0].item<float>(), 2);
  average.swap(units);
  EXPECT_EQ(values[0].item<float>(), 4);
  average.reset(units);
  EXPECT_EQ(average.state()[0].values[4].item<float>(), 4);
}

TEST(Norm, BlocksAddUpToTheSameBitsWhateverTheCut) {
  const std::vector<UnitLayout> units = layouts(3);
  std::vector<double> squares(kSpecs.size());
  for (const UnitLayout& layout : units) {
    const at::Tensor all = at::zeros({layout.size});
    fill(layout, {0, layout.size}, 1, all);
    const std::vector<double> whole = block_squares(all);
    ASSERT_EQ(static_cast<int64_t>(whole.size()), layout.size / kUnitBlock);
    std::vector<double> parts;
    ParameterSquares by_parameter{std::vector<double>(kSpecs.size()),
                                  std::vector<double>(kSpecs.size())};
    for (int64_t r = 0; r < 3; ++r) {
      const auto range = layout.slice(r, 3);
      const at::Tensor slice = all.narrow(0, range.begin, range.size()).clone();
      const std::vector<double> own = block_squares(slice);
      parts.insert(parts.end(), own.begin(), own.end());
      const std::vector<UnitSlice> here = {{&layout, range, slice, at::mul(slice, 2)}};
      const ParameterSquares some = parameter_squares(here, kSpecs.size());
      for (size_t p = 0; p < kSpecs.size(); ++p) {
        by_parameter.values[p] += some.values[p];
        by_parameter.gradients[p] += some.gradients[p];
      }
    }
    EXPECT_EQ(parts, whole);
    double total = 0;
    for (const auto& part : layout.parts) {
      double expected = 0;
      for (int64_t i = 0; i < part.numel; ++i) {
        const double v = static_cast<double>(all.data_ptr<float>()[part.offset + i]);
        expected += v * v;
      }
      const auto bound = test::reordered<double>(static_cast<double>(part.numel), expected);
      EXPECT_NEAR(by_parameter.values[part.parameter], expected, bound.absolute);
      EXPECT_NEAR(by_parameter.gradients[part.parameter], 4 * expected, 4 * bound.absolute);
      total += expected;
    }
    const auto bound = test::reordered<double>(static_cast<double>(layout.size), std::sqrt(total));
    EXPECT_NEAR(norm_of(whole), std::sqrt(total), bound.absolute);
  }
}

}  // namespace
}  // namespace ashlar

// The oracle's arm: what it knows, and what it makes of it.

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "cli/engine_fidelity.h"
#include "cli/engine_scorer.h"
#include "cli/foresight.h"
#include "core/base/rng.h"
#include "tests/cli/small_scorer.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar::cli {
namespace {

constexpr CacheOptions kFull{CodecKind::kF32, CodecKind::kF32};

/// Queries as they stand times `factor`, so that attention has peaks.
ModelData peaked_model(const std::string& name, float factor) {
  ModelData model = smoke_model(name);
  uint64_t stream = 0;
  for (const ParameterSpec& p : parameters(model.spec)) {
    ++stream;
    if (p.name.find("q_proj.weight") == std::string::npos) continue;
    const Philox rng(7, stream);
    std::vector<float> values(static_cast<size_t>(p.numel()));
    const double scale = factor / std::sqrt(static_cast<double>(p.shape[1]));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(scale * rng.normal(i));
    model.tensors[p.name] = make_dense(p.name, p.shape, values);
  }
  return model;
}

EngineOptions small_chunks() {
  EngineOptions options;
  options.threads = 1;
  options.chunk_tokens = 7;
  return options;
}

CacheRequest request_of(const std::string& policy, const std::string& budget,
                        const std::string& codec = "fp32") {
  CacheRequest request = one_thread().cache;
  request.policy = policy;
  request.budget = budget;
  request.codec = codec;
  return request;
}

ScoreText text_of(const ModelData& model, int64_t n, int64_t prompt, uint64_t seed = 3) {
  ScoreText text;
  text.tokens = test::random_tokens(n, model.spec.vocab_size, seed);
  text.prompt = text.scored = prompt;
  if (prompt == 0) text.scored = 1;
  return text;
}

/// Drops nothing and keeps every query's attention: a matrix, which the oracle must do without.
class Matrix final : public Policy {
 public:
  Matrix() : Policy({.reducer = ScoreReducer::kLast, .per_head = true}) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit>) const override {
    for (const LaneView& lane : lanes) {
      rows[{lane.group, lane.head}][lane.newest] = {lane.scores.begin(), lane.scores.end()};
    }
  }
  mutable std::map<std::pair<int64_t, int64_t>, std::map<int64_t, std::vector<float>>> rows;
};

// Token by token, every query for itself, summed in double.
std::shared_ptr<Matrix> read_slowly(Engine& engine, const ScoreText& text) {
  auto matrix = std::make_shared<Matrix>();
  const auto sequence = engine.start(kFull, matrix, text.marker);
  for (size_t i = 0; i + 1 < text.tokens.size(); ++i) {
    const StepItem item{sequence.get(), std::span(text.tokens).subspan(i, 1), true, nullptr};
    engine.feed(std::span(&item, 1));
  }
  return matrix;
}

// The last query row of the prompt; −1: nothing is before the text.
int64_t newest_of_prompt(const ModelSpec& spec, const ScoreText& text) {
  const int64_t length = spec.block_length();
  const int64_t front = text.marker || spec.block ? length : 0;
  return (front + text.prompt) / length - 1;
}

void compare_with_matrix(const ModelData& model, const ScoreText& text, int64_t bytes) {
  Engine engine(model, small_chunks());
  const auto future = foresee(engine, text, kFull, bytes);
  const auto matrix = read_slowly(engine, text);
  int64_t heads = 0, last = 0;
  for (const auto& [lane, queries] : matrix->rows) last = queries.rbegin()->first;
  for (const KvGroup& group : governed_groups(engine.groups())) heads += group.heads;
  const int64_t prompt = newest_of_prompt(model.spec, text);
  const int64_t moments = std::max<int64_t>(1, bytes / (8 * heads * (last + 1)));
  const int64_t stride = std::max<int64_t>(1, (last - prompt + moments - 1) / moments);
  EXPECT_LE(future->bytes(), std::max(bytes, 8 * heads * (last + 1)));
  for (const auto& [lane, queries] : matrix->rows) {
    for (int64_t newest = std::max<int64_t>(prompt, 0); newest <= last; ++newest) {
      // Queries that are recorded together count until the last of them is in.
      const int64_t counted = prompt + (newest - prompt) / stride * stride;
      const int64_t from = newest == last ? last : counted;
      std::vector<double> expected(static_cast<size_t>(last + 1));
      int64_t terms = 1;
      for (const auto& [query, probabilities] : queries) {
        if (query <= from) continue;
        ++terms;
        for (size_t row = 0; row < probabilities.size(); ++row) {
          expected[row] += static_cast<double>(probabilities[row]);
        }
      }
      const auto sums = future->after(lane.first, lane.second, newest);
      std::vector<double> found(sums.begin(), sums.end());
      found.resize(expected.size());
      // Sums of at most one per query, query head and reader.
      const double most = static_cast<double>(terms) * 16;
      ASSERT_TRUE(test::within(std::span<const double>(found), std::span<const double>(expected),
                               test::reordered<float>(static_cast<double>(terms) * 4, most)))
          << "group " << lane.first << " head " << lane.second << " newest " << newest;
    }
  }
}

TEST(Oracle, KnowsWhatASlowReadingOfEveryQueryFinds) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    if (governed_groups(kv_groups(spec)).empty()) continue;
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 17);
    for (const int64_t prompt : {0, 19, 24, 36, 37}) {
      for (const bool marker : {true, false}) {
        ScoreText text = text_of(model, 38, prompt);
        text.marker = marker;
        SCOPED_TRACE(fmt::format("prompt {} marker {}", prompt, marker));
        // Every query apart, a few together, all together.
        for (const int64_t bytes : {kForesightBytes, int64_t{8000}, int64_t{1}}) {
          compare_with_matrix(model, text, bytes);
        }
      }
    }
  }
}

TEST(Oracle, WithABudgetOfTheLengthIsTheFullCacheBitForBit) {
  for (const char* name : {"decoder_gqa", "decoder_cla2", "decoder_mla", "decoder_window",
                           "block_cla2", "block_cross_cla2"}) {
    SCOPED_TRACE(name);
    const ModelData model = smoke_model(name);
    for (const char* codec : {"fp32", "q4:q8"}) {
      EngineScorer scorer(model, one_thread(),
                          {request_of("none", "", codec), request_of("oracle", "100", codec),
                           request_of("oracle", "12", codec)});
      size_t differ = 0;
      for (const int64_t prompt : {0, 13, 32, 47, 48}) {
        const ScoreText text = text_of(model, 49, prompt);
        const auto scores = scorer.score_arms(std::span(&text, 1));
        for (size_t i = 0; i < scores[0][0].tokens.size(); ++i) {
          ASSERT_EQ(scores[1][0].tokens[i].log_p, scores[0][0].tokens[i].log_p);
          differ += scores[2][0].tokens[i].log_p != scores[0][0].tokens[i].log_p ? 1 : 0;
        }
      }
      EXPECT_GT(differ, 0u) << "a smaller budget is seen";
    }
  }
}

// Together with others, in a batch, alone: the same bits.
TEST(Oracle, IsAloneWhatItIsAmongOthers) {
  for (const char* name : {"decoder_cla2", "block_cla2"}) {
    SCOPED_TRACE(name);
    const ModelData model = smoke_model(name);
    const std::vector<CacheRequest> requests = {
        request_of("oracle", "50%", "q4"), request_of("none", "", "q4"),
        request_of("oracle", "25%", "q4"), request_of("keydiff", "50%", "q4"),
        request_of("oracle", "50%", "fp16")};
    EngineScorer together(model, one_thread(), requests);
    std::vector<ScoreText> texts;
    for (const int64_t n : {55, 60, 70}) texts.push_back(text_of(model, n, 40, n));
    const auto scores = together.score_arms(texts);
    for (size_t arm = 0; arm < requests.size(); ++arm) {
      EngineScorer alone(model, one_thread(), {requests[arm]});
      for (size_t t = 0; t < texts.size(); ++t) {
        const auto own = alone.score(std::span(&texts[t], 1));
        ASSERT_EQ(own[0].kv_bytes, scores[arm][t].kv_bytes);
        for (size_t i = 0; i < own[0].tokens.size(); ++i) {
          ASSERT_EQ(own[0].tokens[i].log_p, scores[arm][t].tokens[i].log_p);
        }
      }
    }
  }
}

double retained_mass(const ModelData& model, const CacheRequest& request, const ScoreText& text) {
  EngineScorer scorer(model, one_thread(), {request});
  double sum = 0, n = 0;
  make_fidelity_probe(scorer)->compare(text, [&](size_t, const FidelityRow& row) {
    for (const auto& mass : row.retained_mass) {
      if (!mass) continue;
      sum += *mass;
      ++n;
    }
  });
  return sum / n;
}

// Attention is planted in a few rows, which differ from text to text.
TEST(Oracle, HoldsMoreOfWhatIsAttendedToThanRandomRows) {
  for (const char* name : {"decoder_gqa", "decoder_cla2", "block_cla2"}) {
    const ModelData model = peaked_model(name, 8);
    const int64_t n = model.spec.block ? 126 : 90, prompt = model.spec.block ? 72 : 60;
    double gain = 0;
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      const ScoreText text = text_of(model, n, prompt, seed);
      const double oracle = retained_mass(model, request_of("oracle", "30%"), text);
      CacheRequest random = request_of("random", "30%");
      random.seed = seed;
      const double chance = retained_mass(model, random, text);
      EXPECT_GE(oracle, chance) << name << " text " << seed;
      gain += (oracle - chance) / 4;
    }
    EXPECT_GT(gain, 0.1) << name;
  }
}

TEST(Oracle, WhereNothingIsToComeItIsRefused) {
  const ModelData model = smoke_model("decoder_gqa");
  EngineScorer scorer(model, one_thread(), {request_of("none", ""), request_of("oracle", "50%")});
  EXPECT_TRUE(scorer.depends_on_text());
  ScoreText text = text_of(model, 30, -1);
  text.scored = 1;
  const std::vector<std::string> whole = {"arm 'oracle 50% fp32'", "30 tokens",
                                          "is read as one prompt"};
  test::expect_error(ErrorCode::kRequest, whole, [&] { scorer.check(text); });
  test::expect_error(ErrorCode::kRequest, whole, [&] { scorer.score_arms(std::span(&text, 1)); });
  text.prompt = 30;
  test::expect_error(ErrorCode::kRequest, {"ends with its prompt"}, [&] { scorer.check(text); });
  text.prompt = 29;
  scorer.check(text);
  EngineScorer alone(model, one_thread(), {request_of("oracle", "20")});
  test::expect_error(ErrorCode::kRequest, {"logits are read without one"},
                     [&] { alone.logits(text.tokens); });
  // An option it cannot use, before any text.
  CacheRequest window = request_of("oracle", "20");
  window.window = 3;
  test::expect_error(ErrorCode::kRequest, {"--kv-window", "looks at no window"},
                     [&] { EngineScorer(model, one_thread(), {window}); });
  // A budget in bytes is known without the text.
  EngineScorer(model, one_thread(), {request_of("oracle", "64KiB")});
  // Other commands have nothing to know.
  EngineArguments other = one_thread();
  for (const char* budget : {"20", "64KiB"}) {
    other.cache = request_of("oracle", budget);
    test::expect_error(ErrorCode::kRequest, {"attention of queries to come", "eval"},
                       [&] { choose_cache(other, model, 100); });
  }
}

}  // namespace
}  // namespace ashlar::cli

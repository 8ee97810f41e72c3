// Rows of several arms: differences, shares, fronts, logs, tables and charts.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"
#include "core/io/json.h"
#include "eval/arm_plot.h"
#include "eval/evaluate.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using Values = std::vector<std::vector<double>>;

Values random_values(uint64_t seed, size_t items) {
  const Philox random(seed);
  Values out;
  for (uint64_t i = 0; i < items; ++i) {
    out.push_back({random.uniform(2 * i), 1 + 3 * random.uniform(2 * i + 1)});
  }
  return out;
}

Metric ratio_metric(int64_t items, Transform transform = Transform::kPlain) {
  return {"t", "m", 0, items, 0, 1, transform, 1};
}

// Written from the definition: resample items with replacement, the same ones for both; figures of
// each; the 2.5 % and 97.5 % quantiles of the differences.
struct Reference {
  std::vector<double> absolute, relative;

  Reference(const Values& own, const Values& full, bool exponent, int64_t resamples,
            uint64_t seed) {
    const Philox random(seed, 0x626f6f74);
    uint64_t draw = 0;
    for (int64_t r = 0; r < resamples; ++r) {
      double a = 0, b = 0, c = 0, d = 0;
      for (size_t k = 0; k < own.size(); ++k) {
        const size_t i = random.below(draw++, own.size());
        a += own[i][0];
        b += own[i][1];
        c += full[i][0];
        d += full[i][1];
      }
      const double x = exponent ? std::exp(a / b) : a / b, y = exponent ? std::exp(c / d) : c / d;
      absolute.push_back(x - y);
      relative.push_back(x / y - 1);
    }
    std::sort(absolute.begin(), absolute.end());
    std::sort(relative.begin(), relative.end());
  }
  static double quantile(const std::vector<double>& values, double q) {
    return values[static_cast<size_t>(std::llround(q * static_cast<double>(values.size() - 1)))];
  }
};

TEST(Arms, DifferencesArePaired) {
  for (const bool exponent : {false, true}) {
    for (const size_t items : {1u, 2u, 37u}) {
      const Values own = random_values(items, items), full = random_values(items + 1, items);
      const Metric metric =
          ratio_metric(static_cast<int64_t>(items), exponent ? Transform::kExp : Transform::kPlain);
      const Reference expected(own, full, exponent, 500, 5);
      const Difference actual = compare(metric, own, full, {500, 5});
      EXPECT_EQ(actual.absolute.low, Reference::quantile(expected.absolute, 0.025));
      EXPECT_EQ(actual.absolute.high, Reference::quantile(expected.absolute, 0.975));
      EXPECT_EQ(actual.relative->low, Reference::quantile(expected.relative, 0.025));
      EXPECT_EQ(actual.relative->high, Reference::quantile(expected.relative, 0.975));
      const double a = summarize(metric, own, {0, 0}).value;
      const double b = summarize(metric, full, {0, 0}).value;
      EXPECT_EQ(actual.absolute.value, a - b);
      EXPECT_EQ(actual.relative->value, a / b - 1);
    }
  }
}

// Pairing is what makes small differences visible: all items shift alike.
TEST(Arms, AnEvenShiftHasNoSpread) {
  const Values full = random_values(3, 50);
  Values shifted = full;
  for (auto& item : shifted) item[0] -= 0.01 * item[1];
  const Metric metric = ratio_metric(50);
  const Difference difference = compare(metric, shifted, full, {1000, 0});
  EXPECT_NEAR(difference.absolute.low, -0.01, 1e-12);
  EXPECT_NEAR(difference.absolute.high, -0.01, 1e-12);
  const EvalRow alone = summarize(metric, full, {1000, 0});
  EXPECT_GT(alone.high - alone.low, 0.05);
  const Difference none = compare(metric, full, full, {1000, 0});
  EXPECT_EQ(none.absolute.low, 0);
  EXPECT_EQ(none.absolute.high, 0);
  EXPECT_EQ(none.relative->high, 0);
}

TEST(Arms, NothingIsRelativeToZero) {
  const Values zero = {{0, 1}, {0, 1}}, some = {{1, 1}, {0, 1}};
  const Metric metric = ratio_metric(2);
  EXPECT_FALSE(compare(metric, some, zero, {100, 0}).relative.has_value());
  // The whole is not zero, but some resample is.
  EXPECT_FALSE(compare(metric, some, some, {100, 0}).relative.has_value());
  EXPECT_EQ(compare(metric, some, zero, {0, 0}).absolute.high, 0.5);
}

/// Items of two tokens; arm a is right with item i if i % (a + 1) == 0 and keeps 100 / (a + 1)
/// bytes, the prompt twice as many.
class ThreeArms final : public Scorer {
 public:
  int64_t vocab_size() const override { return 10; }
  int64_t context_length() const override { return 10; }
  Node settings() const override { return arms().front().settings; }
  std::vector<Arm> arms() const override {
    std::vector<Arm> out{{"none", "", "q8"}, {"h2o", "50%", "q8"}, {"h2o", "25%", "q8"}};
    out[0].full = true;
    for (Arm& arm : out) arm.settings = Node::Map{{"kv_budget", arm.budget}};
    return out;
  }
  std::vector<TextScore> score(std::span<const ScoreText>) override { return {}; }
  std::vector<std::vector<TextScore>> score_arms(std::span<const ScoreText> texts) override {
    std::vector<std::vector<TextScore>> out(3);
    for (const ScoreText& text : texts) {
      ++scored;
      for (int a = 0; a < 3; ++a) {
        const bool right = text.tokens[0] % (a + 1) == 0;
        out[static_cast<size_t>(a)].push_back(
            {{{right ? -0.5 : -2.0, right ? text.tokens[1] : 9}}, 300 / (a + 1), 600 / (a + 1)});
      }
    }
    return out;
  }
  std::vector<float> logits(std::span<const int32_t>) override { return {}; }
  int scored = 0;
};

class SixItems final : public EvalTask {
 public:
  const std::string& name() const override { return name_; }
  Node settings() const override { return Node::map(); }
  int64_t size() const override { return 6; }
  std::vector<ScoreText> texts(int64_t item) const override {
    ScoreText text;
    text.tokens = {static_cast<int32_t>(item), 1};
    text.scored = 1;
    return {text};
  }
  std::vector<double> measure(int64_t, std::span<const TextScore> scores) const override {
    return {scores[0].tokens[0].best == 1 ? 1.0 : 0.0, -scores[0].tokens[0].log_p};
  }
  std::vector<Metric> metrics() const override {
    return {{name_, "accuracy", 0, 6, 0},
            {name_, "perplexity", 0, 6, 1, -1, Transform::kExp, 1, true},
            {name_ + "/even", "accuracy", 0, 1, 0}};
  }

 private:
  std::string name_ = "six";
};

TEST(Arms, RowsSayWhatEachArmCostsAndGives) {
  ThreeArms scorer;
  const std::vector<EvalRow> rows = evaluate(scorer, SixItems(), {});
  ASSERT_EQ(rows.size(), 9u);
  const double accuracy[] = {1, 0.5, 2.0 / 6}, share[] = {1, 0.5, 1.0 / 3};
  for (size_t a = 0; a < 3; ++a) {
    const EvalRow& row = rows[3 * a];
    EXPECT_EQ(row.metric, "accuracy");
    EXPECT_DOUBLE_EQ(row.value, accuracy[a]);
    EXPECT_DOUBLE_EQ(*row.arm->share, share[a]);
    EXPECT_DOUBLE_EQ(*row.arm->prompt_share, share[a]);
    EXPECT_EQ(row.kv_prompt_bytes, 2 * row.kv_bytes);
    EXPECT_DOUBLE_EQ(row.arm->difference->absolute.value, accuracy[a] - 1);
    EXPECT_DOUBLE_EQ(row.arm->difference->relative->value, accuracy[a] - 1);
    EXPECT_TRUE(row.arm->pareto) << "less costs less";
    EXPECT_TRUE(rows[3 * a + 1].lower_is_better);
    EXPECT_EQ(rows[3 * a + 2].arm->pareto, a == 2) << "item 0: all are right, the smallest is best";
  }
  const Node node = to_node(rows);
  const Node& row = node.as_list()[3];
  EXPECT_EQ(row.find("policy")->as_string(), "h2o");
  EXPECT_EQ(row.find("budget")->as_string(), "50%");
  EXPECT_EQ(row.find("codec")->as_string(), "q8");
  EXPECT_EQ(row.find("kv_bytes")->as_int(), 150);
  EXPECT_EQ(row.find("kv_share")->as_double(), 0.5);
  EXPECT_TRUE(row.find("pareto")->as_bool());
  EXPECT_EQ(row.find("better")->as_string(), "higher");
  EXPECT_EQ(row.find("relative")->as_double(), -0.5);
  EXPECT_TRUE(node.as_list()[0].find("budget")->is_null());
  const std::string table = arms_to_markdown(rows);
  for (const char* part : {"**six**: accuracy, higher is better", "perplexity, lower is better",
                           "| h2o | 25% | q8 | 0.3333 |", "is it", "33.3 %", "-50.00 %", "●"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part << "\n" << table;
  }
}

// Equal arms share the front; worse in as many bytes is not on it.
TEST(Arms, TheFrontHoldsWhatNothingBeats) {
  const std::vector<Arm> arms = {{"a", "", "x"}, {"b", "", "x"}, {"c", "", "x"}, {"d", "", "x"}};
  const auto item = [](double value, int64_t bytes) {
    return std::vector<ItemResult>{{{value}, bytes, bytes, 0}};
  };
  const ArmResults results = {item(2, 100), item(2, 100), item(1.5, 100), item(1, 50)};
  Metric metric{"t", "m", 0, 1, 0};
  const auto front = [&] {
    std::vector<bool> out;
    for (const EvalRow& row : rows_of(std::span(&metric, 1), arms, results, {0, 0}, Node::map())) {
      out.push_back(row.arm->pareto);
      EXPECT_FALSE(row.arm->share.has_value() || row.arm->difference.has_value())
          << "no full cache to compare with";
    }
    return out;
  };
  EXPECT_EQ(front(), (std::vector<bool>{true, true, false, true}));
  metric.lower_is_better = true;
  EXPECT_EQ(front(), (std::vector<bool>{false, false, false, true}));
}

// A run that was killed between the lines of two arms goes on without losing or doubling any.
TEST(Arms, LogsGoOnFromAnyLine) {
  const test::TempDir dir;
  const auto path = dir / "items.jsonl";
  const auto run = [&](int* scored = nullptr) {
    ItemLog log(path);
    EvaluateOptions options;
    options.log = &log;
    ThreeArms scorer;
    auto rows = evaluate(scorer, SixItems(), options);
    if (scored != nullptr) *scored = scorer.scored;
    std::vector<double> values;
    for (const EvalRow& row : rows) values.push_back(row.value);
    return values;
  };
  const auto expected = run();
  const std::string whole = test::read_text(path);
  EXPECT_EQ(std::count(whole.begin(), whole.end(), '\n'), 3 * (1 + 6));
  EXPECT_NE(whole.find("six [h2o 25% q8]"), std::string::npos);
  for (size_t line = 0, end = 0; (end = whole.find('\n', end)) != std::string::npos; ++line) {
    test::write_text(path, whole.substr(0, ++end));
    int scored = 0;
    EXPECT_EQ(run(&scored), expected) << line;
    EXPECT_EQ(scored, line < 3 ? 6 : 6 - static_cast<int>((line - 2) / 3)) << line;
    const std::string again = test::read_text(path);
    EXPECT_EQ(std::count(again.begin(), again.end(), '\n'), 3 * (1 + 6)) << line;
  }
}

TEST(Arms, ChartsNameEveryArmAndQuoteWhatUsersWrite) {
  ThreeArms scorer;
  std::vector<EvalRow> rows = evaluate(scorer, SixItems(), {});
  for (EvalRow& row : rows) {
    if (row.task == "six") row.task = "it's\nsix";
  }
  const std::vector<Panel> panels = {{"it's\nsix", "accuracy"}, {"it's\nsix", "perplexity"}};
  const std::string script = arms_plot(rows, panels, "a'b.svg");
  for (const char* part :
       {"set terminal svg size 900,1040", "set output 'a''b.svg'", "set title 'it''s six'",
        "300 1 1 1 \"q8\"", "\"50%\"", "'h2o, q8'", "'none, q8'", "multiplot layout 2,1",
        "perplexity (lower is better)", "title 'full cache'", "Pareto front"}) {
    EXPECT_NE(script.find(part), std::string::npos) << part << "\n" << script;
  }
  test::expect_error(ErrorCode::kRequest, {"a.pdf", ".svg and .png"},
                     [&] { arms_plot(rows, panels, "a.pdf"); });
  test::expect_error(ErrorCode::kRequest, {"has no f1 to draw"}, [&] {
    arms_plot(rows, std::vector<Panel>{{"six/even", "f1"}}, "a.svg");
  });
}

}  // namespace
}  // namespace ashlar

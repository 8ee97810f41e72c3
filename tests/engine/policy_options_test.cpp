// What budgets by layer come to, and options that a policy cannot use, which are refused.

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "core/base/rng.h"
#include "engine/policy/row_budget.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

TEST(RowBudget, SharesKeepTheSumAndTheOrder) {
  const Philox rng(4);
  for (uint64_t i = 0; i < 2000; ++i) {
    const size_t groups = 1 + rng.below(8 * i, 40);
    const auto budget = static_cast<int64_t>(1 + rng.below(8 * i + 1, 3000));
    const auto fixed = static_cast<int64_t>(rng.below(8 * i + 2, static_cast<uint64_t>(budget)));
    const double beta = 1 + 30 * rng.uniform(8 * i + 3);
    const std::string name = i % 2 == 0 ? "falling" : "rising";
    const auto weights = layer_weights(name + ":" + std::to_string(beta), groups);
    const auto rows = share_out(weights, budget, fixed);
    const auto n = static_cast<int64_t>(groups);
    ASSERT_EQ(std::accumulate(rows.begin(), rows.end(), int64_t{0}), n * budget);
    for (size_t g = 0; g < groups; ++g) {
      ASSERT_GE(rows[g], fixed);
      if (g > 0) {
        ASSERT_TRUE(i % 2 == 0 ? rows[g] <= rows[g - 1] + 1 : rows[g] + 1 >= rows[g - 1]);
      }
    }
  }
  EXPECT_EQ(share_out(layer_weights("3,1,2", 3), 12, 6), (std::vector<int64_t>{15, 9, 12}));
  EXPECT_EQ(share_out(layer_weights("uniform", 3), INT32_MAX, 6),
            (std::vector<int64_t>(3, INT32_MAX)));
}

TEST(Policies, OptionsThatMakeNoSenseAreRefused) {
  const auto groups = kv_groups(test::small_decoder());
  const auto refuses = [&](const std::string& name, const std::vector<std::string>& fragments,
                           const std::function<void(PolicyOptions&)>& change) {
    SCOPED_TRACE(name);
    PolicyOptions options;
    options.name = name;
    options.budget = 20;
    if (name == "none") options.budget = 0;
    change(options);
    test::expect_error(ErrorCode::kRequest, fragments, [&] { make_policy(options, groups); });
  };
  using O = PolicyOptions;
  for (const char* name : {"none", "streaming", "h2o", "tova", "keydiff", "random"}) {
    refuses(name, {"--kv-window", "no window of query rows"}, [](O& o) { o.window = 3; });
    refuses(name, {"--kv-pool", "pools no scores"}, [](O& o) { o.pool = PoolKind::kMax; });
    refuses(name, {"--kv-by-age", "keeps no counts"}, [](O& o) { o.by_age = true; });
  }
  for (const char* name : {"none", "h2o", "scissorhands", "snapkv", "random"}) {
    refuses(name, {"--kv-crush", "no representatives"}, [](O& o) { o.crush.emplace(); });
  }
  for (const char* name : {"none", "streaming", "snapkv", "pyramidkv", "snapstream"}) {
    refuses(name, {"--kv-drop", "no number of rows"}, [](O& o) { o.drop = 3; });
    refuses(name, {"--kv-seed", "draws nothing"}, [](O& o) { o.seed = 3; });
  }
  for (const char* name : {"streaming", "snapstream"}) {
    refuses(name, {"--kv-layers", "as many rows in every layer"},
            [](O& o) { o.layers = "falling"; });
  }
  refuses("snapkv", {"--kv-window 0", "at least one"}, [](O& o) { o.window = 0; });
  refuses("snapkv", {"--kv-pool of 4 rows", "odd"}, [](O& o) { o.pool_rows = 4; });
  refuses("snapkv", {"--kv-pool none of 5"}, [](O& o) {
    o.pool = PoolKind::kNone;
    o.pool_rows = 5;
  });
  refuses("snapkv", {"budget of 20 rows", "4 + 17"}, [](O& o) { o.window = 17; });
  refuses("snapkv", {"budget of 20 rows", "4 + 17"}, [](O& o) { o.recent = 17; });
  refuses("h2o", {"--kv-drop 0"}, [](O& o) { o.drop = 0; });
  refuses("h2o", {"--kv-drop of 13 rows", "protected"}, [](O& o) {
    o.recent = 5;
    o.drop = 13;
  });
  refuses("h2o", {"'x' is no positive number"}, [](O& o) { o.layers = "1,x,1,1"; });
  refuses("h2o", {"'-1' is no positive number"}, [](O& o) { o.layers = "1,-1,1,1"; });
  refuses("h2o", {"3 weights", "4 groups"}, [](O& o) { o.layers = "1,2,3"; });
  refuses("h2o", {"'' is no positive number"}, [](O& o) { o.layers = "1,2,3,"; });
  refuses("h2o", {"'upwards' is no positive number"}, [](O& o) { o.layers = "upwards"; });
  refuses("h2o", {"below 1"}, [](O& o) { o.layers = "falling:0.5"; });
  refuses("pyramidkv", {"rising", "budgets fall"}, [](O& o) { o.layers = "rising"; });
  refuses("oracle", {"attention of queries to come"}, [](O&) {});
  for (const std::string& name : policy_names()) {
    if (name == "none") continue;
    refuses(name, {"positive --kv-budget"}, [](O& o) { o.budget = 0; });
    refuses(name, {"smaller than sink + recent"}, [](O& o) { o.sink = 20; });
    refuses(name, {"must not be negative"}, [](O& o) { o.sink = -1; });
    refuses(name, {"smaller than sink + recent"}, [](O& o) { o.recent = INT64_MAX; });
  }
}

}  // namespace
}  // namespace ashlar

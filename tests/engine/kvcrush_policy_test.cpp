// KVCrush's options, what is refused of them, and its independence of the order of rows. Its
// decisions are compared in policy_test.cpp, those of the selector alone in kvcrush_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/base/rng.h"
#include "engine/policy/policy.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

TEST(Crush, OptionsAreReadAndWritten) {
  EXPECT_EQ(read_crush("ratio=0.5,scorer=h2o", 1),
            (CrushOptions{.scorer = CrushScorer::kH2o, .ratio = 0.5}));
  EXPECT_EQ(read_crush("page=9", 4).page, 3);  // nine tokens in rows of four
  for (const char* text :
       {"scorer=snapkv,ratio=0.25,anchor=mean,features=head,page=1",
        "scorer=scissorhands,ratio=0.1,anchor=inverse-mean,features=page,page=16",
        "scorer=h2o,ratio=1,anchor=random,features=head,page=3"}) {
    EXPECT_EQ(write_crush(read_crush(text, 1)), text);
  }
  const auto refuses = [](const std::string& text, const std::vector<std::string>& fragments) {
    SCOPED_TRACE(text);
    test::expect_error(ErrorCode::kRequest, fragments, [&] { read_crush(text, 1); });
  };
  refuses("", {"--kv-crush", "'' is not one of scorer"});
  refuses("ratio=0.5,", {"'' is not one of scorer"});
  refuses("rate=0.5", {"'rate'", "ratio"});
  refuses("scorer=tova", {"scorer=tova", "snapkv, h2o, scissorhands"});
  refuses("anchor=median", {"anchor=median", "zeros, ones, mean, inverse-mean"});
  refuses("features=both", {"features=both", "head, page"});
  refuses("ratio=half", {"ratio=half", "no number"});
  refuses("ratio=0.5x", {"no number"});
  refuses("ratio", {"ratio=", "no number"});
  refuses("page=1.5", {"page=1.5", "no number"});
  refuses("page=0", {"page=0", "at least one"});
  refuses("page=4,ratio=0,page=4", {"page is given twice"});
}

// What select sees when a lane's rows lie in any order.
TEST(Crush, TheOrderOfRowsInACacheMeansNothing) {
  PolicyOptions options{"kvcrush", 40, 2, 4};
  options.crush = read_crush("page=3,ratio=0.5,anchor=alternate", 1);
  const auto groups = kv_groups(test::small_decoder());
  const auto policy = make_policy(options, groups);
  const Philox rng(12);
  uint64_t draw = 0;
  for (const int64_t scale : {1, 37, 5000, 30000000}) {  // one to three digits of a position
    std::vector<int32_t> positions(60);
    std::vector<float> scores(120);
    for (size_t i = 0; i < 60; ++i) {
      positions[i] = static_cast<int32_t>(i < 2 || scale == 1 ? i : i * static_cast<size_t>(scale));
    }
    for (size_t i = 56; i < 60; ++i) positions[i] = positions[59] - static_cast<int32_t>(59 - i);
    for (float& score : scores) score = static_cast<float>(rng.below(draw++, 9));
    std::vector<size_t> slots(60);
    std::iota(slots.begin(), slots.end(), 0);
    std::vector<int64_t> first;
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<int32_t> at(60);
      std::vector<float> heads(120);
      for (size_t i = 0; i < 60; ++i) {
        at[slots[i]] = positions[i];
        for (size_t h = 0; h < 2; ++h) heads[h * 60 + slots[i]] = scores[h * 60 + i];
      }
      LaneView lane{.group = 0, .newest = positions[59], .positions = at};
      lane.heads = 2;
      lane.head_scores = heads;
      LaneEdit edit;
      policy->select(std::span(&lane, 1), std::span(&edit, 1));
      ASSERT_TRUE(std::is_sorted(edit.drop.begin(), edit.drop.end()));
      std::vector<int64_t> dropped;
      for (const int64_t slot : edit.drop) dropped.push_back(at[static_cast<size_t>(slot)]);
      std::sort(dropped.begin(), dropped.end());
      ASSERT_EQ(dropped.size(), 60u - (40 + 1 - 10));
      if (trial == 0) first = dropped;
      ASSERT_EQ(dropped, first) << trial;
      for (size_t i = 59; i > 0; --i) std::swap(slots[i], slots[rng.below(draw++, i + 1)]);
    }
  }
}

TEST(Crush, OptionsThatMakeNoSenseAreRefused) {
  const auto groups = kv_groups(test::small_decoder());
  const auto refuses = [&](const std::string& name, const std::vector<std::string>& fragments,
                           const std::function<void(PolicyOptions&)>& change) {
    PolicyOptions options{name, 20};
    change(options);
    test::expect_error(ErrorCode::kRequest, fragments, [&] { make_policy(options, groups); });
  };
  using O = PolicyOptions;
  refuses("kvcrush", {"--kv-pool", "pools no scores"}, [](O& o) { o.pool = PoolKind::kMax; });
  refuses("kvcrush", {"--kv-seed", "anchor=random"}, [](O& o) { o.seed = 1; });
  refuses("kvcrush", {"--kv-by-age", "scorer=scissorhands"}, [](O& o) { o.by_age = true; });
  refuses("kvcrush", {"--kv-window", "scorer=h2o"}, [](O& o) {
    o.crush = CrushOptions{.scorer = CrushScorer::kH2o};
    o.window = 5;
  });
  for (const double ratio : {-0.1, 1.1, double{NAN}}) {
    refuses("kvcrush", {"ratio", "[0, 1]"}, [&](O& o) { o.crush = CrushOptions{.ratio = ratio}; });
  }
  refuses("kvcrush", {"budget of 20 rows", "4 + 17"}, [](O& o) { o.window = 17; });
  refuses("kvcrush", {"--kv-drop of 13 rows", "protected"}, [](O& o) {
    o.recent = 5;
    o.drop = 13;
  });
  // 20 + 1 − 5 rows after a drop; 4 + 5 are protected: pages of 7 fit, of 8 do not.
  refuses("kvcrush", {"page of 8 rows", "keeps 16 of 20", "4 + 5", "no page fits"}, [](O& o) {
    o.recent = 5;
    o.crush = CrushOptions{.page = 8};
  });
  PolicyOptions fits{"kvcrush", 20, 4, 5};
  fits.crush = CrushOptions{.page = 7};
  EXPECT_NO_THROW(make_policy(fits, groups));
}

}  // namespace
}  // namespace ashlar

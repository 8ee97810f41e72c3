#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "core/io/json.h"
#include "engine/policy/kvcrush_select.h"

// Against OpenVINO GenAI's own library (tests/golden/make_kvcrush_golden.py): page bits, OpenVINO's
// ranks, its budget in blocks on top turned into a total. Its bits, distances and order are ours; a
// random anchor is the one that it drew.
namespace ashlar::test {
namespace {

struct GoldenCase {
  const Node& node;
  std::vector<float> scores;
  int64_t important, representatives;
  CrushRequest request;

  explicit GoldenCase(const Node& n)
      : node(n), important(number("important")), representatives(number("representatives")) {
    for (const Node& score : list("scores")) scores.push_back(static_cast<float>(score.as_int()));
    request.scores = scores;
    request.rows = std::ssize(scores);
    request.page = number("page");
    request.budget = (important + representatives) * request.page;
    request.representatives =
        static_cast<double>(representatives) / static_cast<double>(important + representatives);
    request.feature = CrushFeature::kPageBits;
    request.anchor = anchor();
    request.ranks = CrushRanks::kStep;
  }
  GoldenCase(const GoldenCase&) = delete;
  GoldenCase& operator=(const GoldenCase&) = delete;

  int64_t number(const char* key) const { return node.find(key)->as_int(); }
  const Node::List& list(const char* key) const { return node.find(key)->as_list(); }
  std::vector<int64_t> numbers(const char* key) const {
    std::vector<int64_t> out;
    for (const Node& value : list(key)) out.push_back(value.as_int());
    return out;
  }
  bool random() const { return node.find("anchor")->as_string() == "random"; }
  bool stable() const { return node.find("stable")->as_bool(); }
  CrushAnchor anchor() const {
    const std::string& name = node.find("anchor")->as_string();
    if (name == "zeros") return CrushAnchor::kZeros;
    if (name == "ones") return CrushAnchor::kOnes;
    if (name == "mean") return CrushAnchor::kMean;
    if (name == "alternate") return CrushAnchor::kAlternate;
    EXPECT_EQ(name, "random");
    return CrushAnchor::kRandom;
  }
};

const Node::List& cases() {
  static const Node node = load_json("tests/golden/kvcrush_golden.json");
  return node.find("cases")->as_list();
}

// Digits, the first bit first.
uint64_t word_of(const std::string& digits) {
  uint64_t word = 0;
  for (size_t i = 0; i < digits.size(); ++i) word |= uint64_t{digits[i] == '1'} << i;
  return word;
}

std::vector<int64_t> blocks_with(const CrushRequest& q, const CrushSelection& s, CrushRole role) {
  std::vector<int64_t> out;
  for (int64_t row = 0; row < q.rows; row += q.page) {
    for (int64_t i = row; i < row + q.page; ++i) {
      EXPECT_EQ(s.roles[static_cast<size_t>(i)], s.roles[static_cast<size_t>(row)]);
    }
    if (s.roles[static_cast<size_t>(row)] == role) out.push_back(row / q.page);
  }
  return out;
}

TEST(KvCrushGolden, Steps) {
  for (const Node& node : cases()) {
    const GoldenCase golden(node);
    SCOPED_TRACE(node.where());
    const CrushBits bits = crush_bits(golden.request);
    ASSERT_EQ(bits.words, 1);
    ASSERT_EQ(bits.pages, std::ssize(golden.list("bits")));
    for (size_t p = 0; p < bits.packed.size(); ++p) {
      EXPECT_EQ(bits.packed[p], word_of(golden.list("bits")[p].as_string())) << "block " << p;
    }
    const std::vector<uint64_t> point = {word_of(node.find("point")->as_string())};
    if (!golden.random()) {
      EXPECT_EQ(crush_anchor(bits, golden.request), point);
    }
    EXPECT_EQ(crush_distances(bits, point), golden.numbers("distances"));
  }
}

// The blocks that stay by score are those that the library does not evict; of the others in order
// of distance the ranks are its representatives: the same blocks in the same order, or, where its
// sort shuffles blocks of equal distance, blocks of the same distances.
TEST(KvCrushGolden, Decisions) {
  int64_t whole = 0;
  for (const Node& node : cases()) {
    const GoldenCase golden(node);
    SCOPED_TRACE(node.where());
    const std::vector<int64_t> distances = golden.numbers("distances");
    const auto at = [&](int64_t block) { return distances[static_cast<size_t>(block)]; };
    std::vector<int64_t> order = golden.numbers("evicted");
    std::sort(order.begin(), order.end());
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return at(a) < at(b); });
    const std::vector<int64_t> retained = golden.numbers("retained");
    const std::vector<int64_t> ranks =
        crush_ranks(std::ssize(order), golden.representatives, CrushRanks::kStep);
    ASSERT_EQ(ranks.size(), retained.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
      const int64_t block = order[static_cast<size_t>(ranks[i])];
      EXPECT_EQ(at(block), at(retained[i])) << "representative " << i;
      if (golden.stable()) {
        EXPECT_EQ(block, retained[i]) << "representative " << i;
      }
    }

    if (golden.random()) continue;  // its anchor is not ours
    const CrushSelection s = select_crush(golden.request);
    EXPECT_EQ(std::ssize(s.keep), golden.request.budget);
    auto evicted = golden.numbers("evicted");
    for (const int64_t block : blocks_with(golden.request, s, CrushRole::kImportant)) {
      EXPECT_EQ(std::count(evicted.begin(), evicted.end(), block), 0) << "block " << block;
    }
    auto ours = blocks_with(golden.request, s, CrushRole::kRepresentative);
    auto theirs = retained;
    std::sort(theirs.begin(), theirs.end());
    if (golden.stable()) {
      EXPECT_EQ(ours, theirs);
      ++whole;
    }
  }
  EXPECT_GE(whole, 15);
}

// What the library does when a full cache has grown by one block: the farthest block goes.
TEST(KvCrushGolden, LibraryDropsTheFarthestBlockInDecoding) {
  int64_t seen = 0;
  for (const Node& node : cases()) {
    GoldenCase golden(node);
    const auto evicted = golden.numbers("evicted"), retained = golden.numbers("retained");
    if (evicted.size() != retained.size() + 1) continue;
    ++seen;
    const std::vector<int64_t> distances = golden.numbers("distances");
    const auto far = [&](int64_t block) { return distances[static_cast<size_t>(block)]; };
    int64_t farthest = 0, dropped = -1;
    for (const int64_t block : evicted) {
      farthest = std::max(farthest, far(block));
      if (std::count(retained.begin(), retained.end(), block) == 0) dropped = block;
    }
    EXPECT_EQ(far(dropped), farthest);
    if (golden.random()) continue;
    golden.request.ranks = CrushRanks::kSpread;
    const CrushSelection s = select_crush(golden.request);
    const auto ours = blocks_with(golden.request, s, CrushRole::kRepresentative);
    EXPECT_EQ(std::count(ours.begin(), ours.end(), dropped), 1);
  }
  EXPECT_GE(seen, 2);
}

}  // namespace
}  // namespace ashlar::test

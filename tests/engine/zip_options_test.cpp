// What `--kv-zip` says, and which query rows it makes probes.

#include "engine/cache/zip_options.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/support/files.h"

namespace ashlar::test {
namespace {

TEST(ZipProbes, CountsAndDrawsAreThePapers) {
  ZipOptions options;
  const ProbeRows thousand(options, 0, 1000);
  int64_t newest = 0, drawn = 0;
  for (int64_t row = -5; row < 1010; ++row) {
    if (!thousand.contains(row)) continue;
    (row >= 950 ? newest : drawn) += 1;
  }
  EXPECT_EQ(newest, 50);
  EXPECT_EQ(drawn, 50);
  EXPECT_EQ(thousand.count(), 100);
  options.seed = 1;
  const ProbeRows other(options, 0, 1000);
  int64_t same = 0;
  for (int64_t row = 0; row < 950; ++row) same += thousand.contains(row) && other.contains(row);
  EXPECT_LT(same, 15);  // 50²/950 = 2.6 expected
  // Every share and length gives its number, the last row among them; all rows are all rows.
  for (const double share : {0.01, 0.1, 0.5, 0.9, 1.0}) {
    options.probes = share;
    for (const int64_t n : {1, 2, 3, 7, 19, 64, 101, 1234}) {
      const ProbeRows probes(options, 11, 11 + n);
      const std::vector<int64_t> counts = probes.counts_from(11, 11 + n);
      EXPECT_EQ(counts.front(), probes.count());
      EXPECT_EQ(counts.back(), 1);
      EXPECT_NEAR(static_cast<double>(probes.count()), share * static_cast<double>(n), 1.01);
      EXPECT_TRUE(share < 1 || probes.count() == n);
    }
  }
  // Each of the older rows is drawn about as often.
  options.probes = 0.1;
  std::vector<int> hits(190);
  for (options.seed = 0; options.seed < 2000; ++options.seed) {
    const ProbeRows probes(options, 0, 200);
    for (int64_t row = 0; row < 190; ++row) hits[static_cast<size_t>(row)] += probes.contains(row);
  }
  // Binomial with mean 2000·10/190 = 105 and deviation 10: 6 of them.
  for (const int n : hits) EXPECT_NEAR(n, 105, 60);
}

TEST(ZipOptions, ReadAndRefuse) {
  EXPECT_EQ(read_zip("", 1), ZipOptions{});
  EXPECT_EQ(read_zip(write_zip(ZipOptions{}), 1), ZipOptions{});
  const ZipOptions o = read_zip("seed=9,every=101,salient=0.25,probes=1", 4);
  EXPECT_EQ(o, (ZipOptions{0.25, 1, 26, 9}));
  EXPECT_EQ(read_zip("", 4).every, 25);
  const auto refuses = [](const char* text, const char* why) {
    expect_error(ErrorCode::kRequest, {"--kv-zip", why}, [&] { read_zip(text, 1); });
  };
  refuses("salient=2", "0 to 1");
  refuses("salient=nan", "0 to 1");
  refuses("probes=0", "above 0");
  refuses("every=0", "one token");
  refuses("every=x", "no number");
  refuses("seed=-1", "no number");
  refuses("every=5,every=5", "twice");
  refuses("share=1", "not one of");
  refuses("every", "no number");
}

}  // namespace
}  // namespace ashlar::test

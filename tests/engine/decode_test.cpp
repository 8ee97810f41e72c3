#include <gtest/gtest.h>

#include <cmath>

#include "core/base/rng.h"
#include "engine/decode/budget.h"
#include "engine/decode/sampler.h"
#include "engine/model/engine.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

TEST(Sampler, GreedyTakesTheLowestIndexOfTies) {
  Sampler sampler({});
  EXPECT_EQ(sampler.pick(std::vector<float>{1, 3, 3, 2}, 0), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  const int64_t n = 40000;
  Sampler sampler({0.7, 0, 1.0, 5});
  std::vector<double> seen(4), wanted(4);
  double total = 0;
  for (size_t i = 0; i < 4; ++i) total += wanted[i] = std::exp(logits[i] / 0.7);
  for (double& w : wanted) w /= total;
  for (int64_t i = 0; i < n; ++i) {
    seen[static_cast<size_t>(sampler.pick(logits, static_cast<uint64_t>(i)))] += 1.0 / n;
  }
  EXPECT_TRUE(test::within(seen, wanted, test::statistical(5 * std::sqrt(0.25 / n), 5, n)));
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, 3.0f};
  Sampler two({1.0, 2, 1.0, 1}), head({1.0, 0, 0.5, 1});
  for (uint64_t i = 0; i < 500; ++i) {
    EXPECT_GE(two.pick(logits, i), 2);
    EXPECT_EQ(head.pick(logits, i), 3);  // its probability 0.64 reaches 0.5 alone
  }
}

TEST(Sampler, ValuesOutOfRangeAreRefused) {
  const auto refuses = [](const SamplingOptions& options, const std::string& fragment) {
    test::expect_error(ErrorCode::kRequest, {fragment}, [&] { Sampler sampler(options); });
  };
  refuses({-1, 0, 1, 0}, "--temperature");
  refuses({std::nan(""), 0, 1, 0}, "--temperature");
  refuses({1, -1, 1, 0}, "--top-k");
  refuses({1, 0, 0, 0}, "--top-p");
}

TEST(Budget, TokensPercentAndBytesBecomeRows) {
  const ModelSpec decoder = test::small_decoder(), block = test::small_block();
  const CacheOptions cache = cache_options("q4:q8", "fp32", "fp32");
  EXPECT_EQ(cache.key_codec, CodecKind::kQ4);
  EXPECT_EQ(cache.value_codec, CodecKind::kQ8);
  const auto rows = [&](const ModelSpec& spec, const std::string& budget) {
    return policy_options({"", "h2o", budget, 4, -1}, spec, cache, 200).budget;
  };
  EXPECT_EQ(rows(decoder, "50"), 50);
  EXPECT_EQ(rows(block, "50"), 13);
  EXPECT_EQ(rows(decoder, "25%"), 50);
  EXPECT_EQ(rows(block, "25%"), 13);
  // Of one group with `lanes` lanes and `scored` tables of scores, two a lane: positions and scores
  // in units of 64 rows, page tables in units of 8 pages.
  const auto tables = [](int64_t pages, int64_t lanes, int64_t scored) {
    return 4 * ((16 * (pages + 1) + 63) / 64 * 64) * (lanes + scored) +
           (pages + 8) / 8 * 8 * 16 * lanes;
  };
  const auto expect_pages = [&](const ModelSpec& spec, int64_t pages, const auto& bytes) {
    EXPECT_EQ(rows(spec, std::to_string(bytes(pages)) + "B"), 16 * pages);
    EXPECT_EQ(rows(spec, std::to_string(bytes(pages + 1) - 1) + "B"), 16 * pages);
  };
  // Encoded and raw page of all four groups: 16 rows × 2 heads × 4 × (8 + 12) and × 4·(8 + 8)
  // bytes.
  const auto of_decoder = [&](int64_t pages) {
    return 8192 + 2560 * pages + 4 * tables(pages, 2, 4);
  };
  // Two of four groups with windows of 20: 20 − 1 + 63 rows, five pages of 640 bytes each.
  const auto of_windows = [&](int64_t pages) {
    return 8192 + 1280 * pages + 2 * tables(pages, 2, 4) + 2 * (5 * 640 + tables(5, 1, 0));
  };
  // Four latent groups whose rows are keys of 16: 12 bytes encoded and 64 raw; no values.
  const auto of_latents = [&](int64_t pages) {
    return 4 * 16 * (64 + 12 * pages) + 4 * tables(pages, 1, 2);
  };
  for (const int64_t pages : {1, 2, 3, 7, 50}) {
    expect_pages(decoder, pages, of_decoder);
    expect_pages(test::small_windowed(), pages, of_windows);
    expect_pages(test::small_latent(), pages, of_latents);
  }
  EXPECT_EQ(cache_bytes_per_token(test::small_latent(), cache), 4 * 12);
  const ModelSpec windows = test::decoder_variant("heads: 4, head_dim: 8, window: 5");
  test::expect_error(ErrorCode::kRequest, {"every layer", "window", "nothing to evict"}, [&] {
    policy_options({"", "h2o", "50", 4, -1}, windows, cache, 200);
  });
  const auto refuses = [&](const CacheRequest& request, const std::string& fragment) {
    test::expect_error(ErrorCode::kRequest, {fragment},
                       [&] { policy_options(request, decoder, cache, 200); });
  };
  refuses({"", "h2o", "", 4, -1}, "needs a --kv-budget");
  refuses({"", "none", "5", 4, -1}, "needs a --kv-policy");
  refuses({"", "h2o", "-5", 4, -1}, "no positive amount");
  refuses({"", "h2o", "0", 4, -1}, "no positive amount");
  refuses({"", "h2o", "abc", 4, -1}, "no positive amount");
  refuses({"", "h2o", "5MB", 4, -1}, "unknown unit 'MB'");
  refuses({"", "h2o", "17919B", 4, -1}, "smaller than one raw and one encoded page");
  refuses({"", "h2o", "999999999999999GiB", 4, -1}, "larger than any cache");
  refuses({"", "h2o", "900000000000000", 4, -1}, "larger than any context");
  const auto with = [&](const char* policy, const auto& change) {
    CacheRequest request{"", policy, "40", 4, -1};
    change(request);
    return request;
  };
  const auto given = with("scissorhands", [](CacheRequest& r) {
    r.window = 9;
    r.drop = "25%";
    r.layers = "falling:3";
    r.by_age = true;
  });
  PolicyOptions options_of = policy_options(given, block, cache, 200);
  EXPECT_EQ(options_of.window, 3);
  EXPECT_EQ(options_of.drop, 2);  // a quarter of ten rows
  EXPECT_EQ(options_of.layers, "falling:3");
  EXPECT_TRUE(options_of.by_age);
  options_of =
      policy_options(with("h2o", [](CacheRequest& r) { r.drop = "6"; }), block, cache, 200);
  EXPECT_EQ(options_of.drop, 2);
  options_of = policy_options(with("snapkv", [](CacheRequest& r) { r.pool = "max:7"; }), decoder,
                              cache, 200);
  EXPECT_EQ(options_of.pool, PoolKind::kMax);
  EXPECT_EQ(options_of.pool_rows, 7);
  options_of = policy_options(
      with("kvcrush", [](CacheRequest& r) { r.crush = "page=9,ratio=0.5"; }), block, cache, 200);
  EXPECT_EQ(options_of.crush, (CrushOptions{.ratio = 0.5, .page = 3}));
  refuses(with("kvcrush", [](CacheRequest& r) { r.crush = "page=x"; }), "--kv-crush page=x");
  for (const char* pool : {"mean", "max:", "max:x", "max:-3", "avg:5 "}) {
    refuses(with("snapkv", [&](CacheRequest& r) { r.pool = pool; }), "--kv-pool");
  }
  for (const char* drop : {"0", "-1", "101%", "3KiB", "x"}) {
    refuses(with("h2o", [&](CacheRequest& r) { r.drop = drop; }), "--kv-drop");
  }
  const auto layered = [](CacheRequest& r) {
    r.budget = "64KiB";
    r.layers = "rising";
  };
  refuses(with("h2o", layered), "same rows in every layer");
  refuses({"", "pyramidkv", "64KiB", 4, -1}, "same rows in every layer");
  CacheRequest whole{"q4", "none", "", 4, -1, 5, 6, "1.5KiB"};
  const CacheOptions options = cache_options(whole, block, "fp32", "fp32");
  EXPECT_EQ(options.precise_sinks, 2);
  EXPECT_EQ(options.residual, 2);
  EXPECT_EQ(options.max_bytes, 1536);
  const auto impossible = [&](const CacheRequest& request, const std::string& fragment) {
    test::expect_error(ErrorCode::kRequest, {fragment},
                       [&] { cache_options(request, decoder, "fp16", "fp16"); });
  };
  impossible({"q4", "none", "", 4, -1, -1}, "-1 tokens are negative");
  impossible({"", "none", "", 4, -1, 1}, "stored no more precisely");
  impossible({"q4", "none", "", 4, -1, 0, 0, "", 0}, "--kv-page-rows 0: a page has 1 to 4096");
  impossible({"q4", "none", "", 4, -1, 0, 0, "", 4097}, "--kv-page-rows 4097");
  impossible({"q4", "none", "", 4, -1, 0, 0, "5%"}, "--kv-limit: '5%'");
  impossible({"q4", "none", "", 4, -1, 0, 0, "0"}, "--kv-limit: '0'");
  impossible({"q4", "none", "", 4, -1, 0, 0, "-1KiB"}, "--kv-limit: '-1KiB'");
  test::expect_error(ErrorCode::kRequest, {"q5"}, [] { cache_options("q5", "fp32", "fp32"); });
}

// Bytes buy resident pages once the digests of the whole text have theirs; the backup is beside
// them.
TEST(Budget, BytesHoldWhatRecallKeepsResident) {
  for (const ModelSpec& spec : {test::small_decoder("cla2"), test::small_latent()}) {
    const ModelData model = test::random_model(spec, 71);
    const char* const budget = spec.stacks[0].layers[0].attention.latent() ? "20KiB" : "14KiB";
    const int64_t bytes = parse_bytes("budget", budget);
    EngineOptions engine_options;
    engine_options.threads = 1;
    Engine engine(model, engine_options);
    for (const char* digest : {"", "cuboid_max:8", "sphere_mean"}) {
      CacheRequest request;
      request.codec = "q4";
      request.policy = "arkvale";
      request.digest = digest;
      request.sink = 0;
      request.recent = 1;
      request.budget = budget;
      const CacheOptions cache = cache_options(request, spec, "", "");
      const int64_t text = spec.context_length - 4;
      const PolicyOptions options = policy_options(request, spec, cache, text);
      const auto sequence = engine.start(cache, make_policy(options, engine.groups()));
      const auto tokens = test::random_tokens(text, spec.vocab_size, 2);
      int64_t most = 0;
      for (int64_t t = 0; t < text; t += t == 0 ? text - 60 : 1) {
        const int64_t n = t == 0 ? text - 60 : 1;
        const StepItem item{sequence.get(), std::span(tokens).subspan(static_cast<size_t>(t),
                                                                      static_cast<size_t>(n))};
        engine.feed(std::span(&item, 1));
        most = std::max(most, sequence->kv_bytes());
      }
      EXPECT_FALSE(sequence->cache().intact()) << digest;
      EXPECT_LE(most, bytes) << digest;
      EXPECT_GT(most, bytes / 2) << digest;
    }
  }
}

}  // namespace
}  // namespace ashlar

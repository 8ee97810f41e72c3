// Texts under ZipCache: what a prompt reads is exact, what is read later depends on the text alone.

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "engine/decode/budget.h"
#include "engine/model/session.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

using Tokens = std::vector<int32_t>;

std::vector<std::pair<std::string, ModelSpec>> specs() {
  return {{"gqa", test::small_decoder()},
          {"cla", test::small_decoder("cla2")},
          {"windows", test::small_windowed()},
          {"block", test::small_block("none")},
          {"block_cla", test::small_block("cla2")}};
}

CacheOptions zip(const ModelSpec& spec, const std::string& text, int64_t page_rows = 16) {
  CacheRequest request;
  request.codec = "zipcache";
  request.zip = text;
  CacheOptions options = cache_options(request, spec, "fp32", "fp32");
  options.page_rows = page_rows;
  return options;
}

struct Way {
  int threads = 1;
  int64_t chunk = 512;
  std::vector<size_t> pieces = {};  ///< of the prompt; the rest of it in one
  bool batched = false;             ///< beside a second text
};

constexpr size_t kPrompt = 70;

/// Logits after every token, the prompt's and those decoded one by one.
std::vector<float> run(const ModelData& model, const CacheOptions& cache, const Tokens& text,
                       const Way& way, size_t prompt = kPrompt) {
  EngineOptions options;
  options.threads = way.threads;
  options.chunk_tokens = way.chunk;
  Engine engine(model, options);
  const auto one = engine.start(cache, nullptr, false), two = engine.start(cache, nullptr, false);
  const auto second = test::random_tokens(200, model.spec.vocab_size, 77);
  const auto vocab = static_cast<size_t>(model.spec.vocab_size);
  std::vector<float> out(text.size() * vocab);
  for (size_t done = 0, p = 0, other = 0; done < text.size(); ++p) {
    const size_t left = done < prompt ? prompt - done : 1;
    const size_t take = done < prompt && p < way.pieces.size() ? way.pieces[p] : left;
    const bool acts = take == left;
    std::vector<StepItem> items = {{one.get(), std::span(text).subspan(done, take), acts,
                                    out.data() + done * vocab,
                                    acts ? 0 : static_cast<int64_t>(left - take)}};
    const size_t more = p == 0 ? 33 : 1;
    if (way.batched && other + more <= second.size()) {
      items.push_back({two.get(), std::span(second).subspan(other, more), true, nullptr});
      other += more;
      std::swap(items[0], items[1]);
    }
    engine.feed(items);
    done += take;
  }
  return out;
}

TEST(ZipEngine, BatchesPiecesAndThreadsDoNotShow) {
  for (const auto& [name, spec] : specs()) {
    const ModelData model = test::random_model(spec, 90);
    const auto text = test::random_tokens(150, spec.vocab_size, 5);
    for (const char* option : {"every=24,probes=0.4,seed=2", "every=40,salient=0.3"}) {
      for (const int64_t page_rows : {16, 5}) {
        SCOPED_TRACE(name + " " + option);
        const CacheOptions cache = zip(spec, option, page_rows);
        const auto expected = run(model, cache, text, {});
        ASSERT_EQ(run(model, cache, text, {2}), expected) << "threads";
        ASSERT_EQ(run(model, cache, text, {1, 9}), expected) << "chunks";
        ASSERT_EQ(run(model, cache, text, {2, 11, {1, 3, 40, 9}, true}), expected) << "a batch";
      }
    }
  }
}

// Until a segment is made everything is what fp16 gives, bit for bit; behind it it is not.
TEST(ZipEngine, PromptsAndShortTextsAreThoseOfFp16) {
  for (const auto& [name, spec] : specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 91);
    const auto text = test::random_tokens(150, spec.vocab_size, 6);
    const auto vocab = static_cast<size_t>(spec.vocab_size);
    const CacheOptions fp16{CodecKind::kF16, CodecKind::kF16};
    const auto plain = run(model, fp16, text, {});
    EXPECT_EQ(run(model, zip(spec, "every=4000"), text, {}), plain);
    const auto zipped = run(model, zip(spec, "every=40"), text, {});
    // The row behind the prompt reads a segment; the token of a block before it may, too.
    const size_t exact = (kPrompt - 4) * vocab;
    EXPECT_TRUE(std::equal(zipped.begin(), zipped.begin() + static_cast<std::ptrdiff_t>(exact),
                           plain.begin()));
    EXPECT_NE(zipped, plain);
    // 4 bits for all are closer than 2 bits for all.
    const auto distance = [&](const char* option) {
      const auto other = run(model, zip(spec, option), text, {});
      double sum = 0;
      for (size_t i = kPrompt * vocab; i < plain.size(); ++i) {
        sum += (static_cast<double>(other[i]) - plain[i]) * (other[i] - plain[i]);
      }
      return sum;
    };
    EXPECT_LT(distance("every=40,salient=1"), distance("every=40,salient=0"));
  }
}

// With every row a probe, what ranks is what a policy's sums over all queries are, bit for bit.
class SumsOfAll final : public Policy {
 public:
  SumsOfAll() : Policy({.reducer = ScoreReducer::kSum, .per_head = true}) {}
  void select(std::span<const LaneView>, std::span<LaneEdit>) const override {}
};

TEST(ZipEngine, ProbesGetTheProbabilitiesOfAttention) {
  for (const auto& [name, spec] : specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 95);
    const auto text = test::random_tokens(90, spec.vocab_size, 11);
    Engine engine(model, {});
    const auto zipped = engine.start(zip(spec, "every=10,probes=1"), nullptr);
    const auto summed = engine.start({}, std::make_shared<SumsOfAll>());
    for (Sequence* sequence : {zipped.get(), summed.get()}) {
      const StepItem item{sequence, text, false, nullptr, 0};
      engine.feed(std::span(&item, 1));
    }
    const CacheImage a = engine.image(*zipped).cache, b = engine.image(*summed).cache;
    int compared = 0;
    for (const KvGroup& group : engine.groups()) {
      const auto g = static_cast<size_t>(group.id);
      if (!governs(group)) continue;
      ASSERT_EQ(a.groups[g].lanes.size(), b.groups[g].lanes.size());
      for (size_t lane = 0; lane < a.groups[g].lanes.size(); ++lane, ++compared) {
        EXPECT_EQ(a.groups[g].lanes[lane].scores, b.groups[g].lanes[lane].scores);
        EXPECT_FALSE(a.groups[g].lanes[lane].scores[0].empty());
      }
    }
    EXPECT_GT(compared, 0);
  }
}

TEST(ZipEngine, SessionsAndForksGoOnWithTheSameBits) {
  const auto path = std::filesystem::temp_directory_path() / "ashlar_zip_test.session";
  for (const auto& [name, spec] : specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 92);
    const auto text = test::random_tokens(180, spec.vocab_size, 7);
    const CacheOptions cache = zip(spec, "every=28,probes=0.3,seed=8");
    EngineOptions options;
    options.threads = 1;
    Engine engine(model, options);
    const auto feed = [&](Sequence& sequence, size_t from, size_t to) {
      for (; from < to; from += from == 0 ? 60 : 1) {
        const StepItem item{&sequence, std::span(text).subspan(from, from == 0 ? 60 : 1)};
        engine.feed(std::span(&item, 1));
      }
      const auto logits = engine.logits(sequence);
      return std::vector<float>(logits.begin(), logits.end());
    };
    const auto whole = engine.start(cache, nullptr);
    const auto expected = feed(*whole, 0, 180);
    for (const size_t at : {60, 75, 111, 130}) {
      const auto sequence = engine.start(cache, nullptr);
      feed(*sequence, 0, at);
      const SessionOrigin origin{"m", cache, {}};
      save_session(engine, *sequence, origin, path);
      const auto restored = restore_session(engine, origin, nullptr, path);
      EXPECT_EQ(restored->cache().bytes().pages, sequence->cache().bytes().pages);
      const auto forked = engine.fork(*sequence);
      EXPECT_EQ(feed(*restored, at, 180), expected) << at;
      EXPECT_EQ(feed(*forked, at, 180), expected) << at;
      EXPECT_EQ(feed(*sequence, at, 180), expected) << at;
      EXPECT_EQ(engine.image(*restored), engine.image(*whole));
      EXPECT_EQ(engine.image(*forked), engine.image(*whole));
      SessionOrigin other = origin;
      other.cache.zip->every += 1;
      test::expect_error(ErrorCode::kRequest, {"another model, cache or policy"},
                         [&] { restore_session(engine, other, nullptr, path); });
    }
    EXPECT_EQ(whole->cache().unplanned_pages(), 0);
  }
  std::filesystem::remove(path);
}

// A prompt that was read without acting goes on by a fork as it would by itself.
TEST(ZipEngine, AForkEndsThePrompt) {
  const ModelSpec spec = test::small_decoder("cla2");
  const ModelData model = test::random_model(spec, 93);
  const auto text = test::random_tokens(90, spec.vocab_size, 9);
  const CacheOptions cache = zip(spec, "every=30");
  Engine engine(model, {});
  const auto read = engine.start(cache, nullptr), whole = engine.start(cache, nullptr);
  const StepItem open{read.get(), text, false, nullptr, 0}, closed{whole.get(), text};
  engine.feed(std::span(&open, 1));
  engine.feed(std::span(&closed, 1));
  const auto forked = engine.fork(*read, nullptr);
  EXPECT_EQ(engine.image(*forked), engine.image(*whole));
}

// Beginnings are not shared: which rows are salient depends on what follows.
TEST(ZipEngine, SharesNoPages) {
  const ModelSpec spec = test::small_decoder();
  const ModelData model = test::random_model(spec, 94);
  EngineOptions options;
  options.prefix_bytes = int64_t{1} << 20;
  Engine engine(model, options);
  const auto text = test::random_tokens(120, spec.vocab_size, 10);
  for (int i = 0; i < 2; ++i) {
    const auto sequence = engine.start(zip(spec, "every=30"), nullptr);
    engine.share(*sequence, "tenant");
    const StepItem item{sequence.get(), text};
    engine.feed(std::span(&item, 1));
    EXPECT_EQ(sequence->shared_tokens(), 0);
  }
  EXPECT_EQ(engine.shared_bytes(), 0);
}

TEST(ZipEngine, RequestsAreReadAndRefused) {
  const ModelSpec decoder = test::small_decoder(), block = test::small_block();
  EXPECT_EQ(zip(decoder, "").zip->every, 100);
  EXPECT_EQ(zip(block, "").zip->every, 25);
  EXPECT_EQ(zip(block, "every=30").zip->every, 8);
  EXPECT_EQ(codec_names(zip(decoder, "")).both(), "zipcache");
  const auto refuses = [&](CacheRequest request, const char* why) {
    test::expect_error(ErrorCode::kRequest, {why},
                       [&] { cache_options(request, decoder, "fp16", "fp16"); });
  };
  CacheRequest request;
  request.codec = "zipcache:q8";
  refuses(request, "key and value of a row alike");
  request.codec = "q4";
  request.zip = "every=50";
  refuses(request, "only the codec zipcache");
  request.codec = "zipcache";
  request.fp16_first = 4;
  refuses(request, "--kv-fp16-first");
  // The package's own codec can be it.
  EXPECT_TRUE(cache_options("", "zipcache", "zipcache").zip.has_value());
  // Of fp16's 4·d bytes per row and head, 4-bit and 2-bit codes, a row's and a segment's numbers.
  const double bytes = cache_bytes_per_token(decoder, zip(decoder, "every=100"));
  const double d = 8;
  EXPECT_DOUBLE_EQ(bytes, 4 * 2 * ((2 + 2 * 0.6) * d / 4 + 4 + 10 * d / 100));
}

}  // namespace
}  // namespace ashlar

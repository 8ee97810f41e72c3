// The arithmetic contract (docs/architecture.md) for every configs/smoke/*.yaml and every codec: a
// text alone, in a batch, in pieces and on any number of threads gives the same bits. With policies
// too; a budget of at least the length equals none.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/config/config.h"
#include "engine/model/engine.h"
#include "tests/support/random_model.h"
#include "tests/support/smoke_files.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

using test::smoke_files;

struct Way {
  int threads = 1;
  int64_t chunk = 512;
  std::vector<size_t> pieces;  // of the first text, the rest in one
  bool batched = false;        // beside a second text
};

// Logits after every token of the first text.
std::vector<float> logits(const ModelData& model, const std::vector<int32_t>& first,
                          const std::vector<int32_t>& second, const CacheOptions& cache,
                          const Way& way) {
  EngineOptions options;
  options.threads = way.threads;
  options.chunk_tokens = way.chunk;
  Engine engine(model, options);
  const auto one = engine.start(cache, nullptr, false), two = engine.start(cache, nullptr, false);
  std::vector<float> out(first.size() * static_cast<size_t>(model.spec.vocab_size));
  std::vector<size_t> pieces = way.pieces;
  pieces.push_back(first.size());
  for (size_t done = 0, p = 0; done < first.size(); ++p) {
    const size_t take = std::min(pieces[p], first.size() - done);
    std::vector<StepItem> items = {
        {one.get(), std::span(first).subspan(done, take), true,
         out.data() + done * static_cast<size_t>(model.spec.vocab_size)}};
    if (way.batched) {
      const size_t begin = std::min(second.size(), 7 * p);
      items.push_back({two.get(),
                       std::span(second).subspan(begin, std::min<size_t>(7, second.size() - begin)),
                       true, nullptr});
      std::swap(items[0], items[1]);
    }
    engine.feed(items);
    done += take;
  }
  return out;
}

TEST(Contract, HoldsForEverySmokeFileAndCodec) {
  ASSERT_GE(smoke_files().size(), 15u);
  for (const fs::path& path : smoke_files()) {
    const Node root = load_yaml(path);
    const ModelSpec spec = model_spec_from_config(*root.find("model"));
    const ModelData model = test::random_model(spec, 51);
    const auto first = test::random_tokens(61, spec.vocab_size, 1);
    const auto second = test::random_tokens(40, spec.vocab_size, 2);
    for (const CodecKind codec : kCodecKinds) {
      CacheOptions cache{codec, codec};
      // Coarse codecs also with rows that stay precise for a while.
      if (codec >= CodecKind::kQ4) cache.residual = 20, cache.precise_sinks = 4;
      SCOPED_TRACE(path.string() + " " + std::string(codec_name(codec)));
      const auto expected = logits(model, first, second, cache, {});
      ASSERT_EQ(logits(model, first, second, cache, {2, 512, {}, false}), expected) << "threads";
      ASSERT_EQ(logits(model, first, second, cache, {1, 9, {}, false}), expected) << "chunks";
      const Way steps{1, 512, {30, 1, 1, 2, 1, 1, 1, 1, 12, 1}, true};
      ASSERT_EQ(logits(model, first, second, cache, steps), expected) << "steps in a batch";
    }
  }
}

constexpr size_t kPrompt = 37, kDecoded = 14;

// Rows that a policy keeps of the prompt: about half of them.
PolicyOptions narrow(const std::string& name, const ModelSpec& spec) {
  PolicyOptions options;
  options.name = name;
  options.budget =
      std::max<int64_t>(4, (static_cast<int64_t>(kPrompt) / spec.block_length() + 1) / 2);
  options.sink = options.recent = 1;
  return options;
}

// How a prompt and what is decoded behind it are fed; the prompt in pieces if there are any.
struct PolicyWay {
  int threads = 1;
  int64_t chunk = 512;
  std::vector<size_t> pieces;
  bool batched = false;
};

struct Evicted {
  std::vector<float> logits;  // after every token of the first text
  bool dropped = false;
};

Evicted evict(const ModelData& model, const std::vector<int32_t>& first,
              const std::vector<int32_t>& second, const CacheOptions& cache,
              const PolicyOptions& options, const PolicyWay& way) {
  EngineOptions engine_options;
  engine_options.threads = way.threads;
  engine_options.chunk_tokens = way.chunk;
  Engine engine(model, engine_options);
  const std::shared_ptr<const Policy> policy = make_policy(options, engine.groups());
  const auto one = engine.start(cache, policy, false), two = engine.start(cache, policy, false);
  const auto vocab = static_cast<size_t>(model.spec.vocab_size);
  Evicted out;
  out.logits.resize(first.size() * vocab);
  for (size_t done = 0, p = 0; done < first.size(); ++p) {
    const size_t left = done < kPrompt ? kPrompt - done : 1;
    const size_t take = done < kPrompt && p < way.pieces.size() ? way.pieces[p] : left;
    const bool acts = done >= kPrompt || take == left;
    std::vector<StepItem> items = {{one.get(), std::span(first).subspan(done, take), acts,
                                    out.logits.data() + done * vocab,
                                    acts ? 0 : static_cast<int64_t>(left - take)}};
    if (way.batched) {
      // The other text's prompt is of another length and ends at another time.
      const size_t begin = p == 0 ? 0 : 23 + 2 * (p - 1);
      const size_t more = p == 0 ? 23 : 2;
      if (begin + more <= second.size()) {
        items.push_back({two.get(), std::span(second).subspan(begin, more), p != 1, nullptr});
        std::swap(items[0], items[1]);
      }
    }
    engine.feed(items);
    done += take;
  }
  out.dropped = !one->cache().intact();
  return out;
}

// Every policy meets every file and every codec: three of them in turn for each file and codec.
TEST(Contract, HoldsForPoliciesToo) {
  std::vector<std::string> names = policy_names();
  names.erase(names.begin());  // none
  std::vector<int> drops(names.size());
  size_t turn = 0, file = 0;
  std::vector<std::set<CodecKind>> met(names.size());
  for (const fs::path& path : smoke_files()) {
    const Node root = load_yaml(path);
    const ModelSpec spec = model_spec_from_config(*root.find("model"));
    const ModelData model = test::random_model(spec, 52);
    const auto first = test::random_tokens(kPrompt + kDecoded, spec.vocab_size, 1);
    const auto second = test::random_tokens(47, spec.vocab_size, 2);
    std::set<size_t> of_file;
    std::map<std::pair<CodecKind, bool>, std::vector<float>> plain;  // without a policy
    turn = file++;  // so that every policy meets every codec, however many there are
    for (size_t i = 0; i < 3 * std::size(kCodecKinds); ++i) {
      const CodecKind codec = kCodecKinds[i / 3];
      const size_t which = turn++ % names.size();
      of_file.insert(which);
      met[which].insert(codec);
      CacheOptions cache{codec, codec};
      const bool recalls = names[which] == "arkvale";  // small pages, in one form
      if (codec >= CodecKind::kQ4 && !recalls) cache.residual = 10, cache.precise_sinks = 4;
      SCOPED_TRACE(path.string() + " " + std::string(codec_name(codec)) + " " + names[which]);
      PolicyOptions options = narrow(names[which], spec);
      if (recalls) cache.page_rows = options.page_rows = options.budget < 8 ? 1 : 2;
      const auto run = [&](const PolicyWay& way) {
        return evict(model, first, second, cache, options, way);
      };
      const Evicted expected = run({});
      drops[which] += expected.dropped ? 1 : 0;
      ASSERT_EQ(run({2, 512, {}, false}).logits, expected.logits) << "threads";
      ASSERT_EQ(run({1, 9, {}, false}).logits, expected.logits) << "chunks";
      ASSERT_EQ(run({1, 11, {1, 3, 19, 11}, true}).logits, expected.logits) << "feeds in a batch";
      options.budget = static_cast<int64_t>(first.size()) + 1;
      const Evicted wide = run({});
      EXPECT_FALSE(wide.dropped);
      const std::pair key(codec, recalls);
      if (!plain.contains(key)) plain[key] = evict(model, first, second, cache, {}, {}).logits;
      ASSERT_EQ(wide.logits, plain[key]) << "wide budget";
    }
    EXPECT_EQ(of_file.size(), names.size());
  }
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_GT(drops[i], 60) << names[i];
    EXPECT_EQ(met[i].size(), std::size(kCodecKinds)) << names[i];
  }
}

// ZipCache where it goes; where nothing becomes a segment it is the codec fp16.
TEST(Contract, HoldsForSegments) {
  int goes = 0;
  for (const fs::path& path : smoke_files()) {
    SCOPED_TRACE(path.string());
    const Node root = load_yaml(path);
    const ModelSpec spec = model_spec_from_config(*root.find("model"));
    const ModelData model = test::random_model(spec, 53);
    const auto first = test::random_tokens(kPrompt + kDecoded, spec.vocab_size, 1);
    const auto second = test::random_tokens(47, spec.vocab_size, 2);
    CacheOptions cache;
    cache.zip = ZipOptions{0.6, 0.4, 6, 3};
    try {
      check_zip(cache, false, kv_groups(spec));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kRequest);
      continue;
    }
    ++goes;
    const auto run = [&](const PolicyWay& way) {
      return evict(model, first, second, cache, {}, way).logits;
    };
    const std::vector<float> expected = run({});
    ASSERT_EQ(run({2, 512, {}, false}), expected) << "threads";
    ASSERT_EQ(run({1, 9, {}, false}), expected) << "chunks";
    ASSERT_EQ(run({1, 11, {1, 3, 19, 11}, true}), expected) << "feeds in a batch";
    cache.zip->every = 1000;
    const auto waits = run({});
    cache.zip.reset();
    ASSERT_EQ(waits, run({})) << "no segment";
    EXPECT_NE(waits, expected);
  }
  EXPECT_GT(goes, 12);
}

}  // namespace
}  // namespace ashlar

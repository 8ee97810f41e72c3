#include "engine/model/engine.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/cache/zip_options.h"
#include "engine/decode/generate.h"
#include "engine/policy/kvcrush_options.h"
#include "quantize/quantize.h"
#include "tests/reference/forward.h"
#include "tests/support/files.h"
#include "tests/support/logit_bound.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_model.h"
#include "tests/support/rotations.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

using Logits = std::vector<float>;

struct Decoding {
  int threads = 1;
  int64_t chunk = 512;
  CacheOptions cache{CodecKind::kF32, CodecKind::kF32};
  std::shared_ptr<const Policy> policy = nullptr;
};

std::unique_ptr<Engine> make_engine(const ModelData& model, const Decoding& run) {
  EngineOptions options;
  options.threads = run.threads;
  options.chunk_tokens = run.chunk;
  return std::make_unique<Engine>(model, options);
}

// Logits after every token, all tokens in one feed.
Logits one_shot(const ModelData& model, const std::vector<int32_t>& tokens, const Decoding& run) {
  const auto engine = make_engine(model, run);
  const auto sequence = engine->start(run.cache, run.policy, false);
  Logits out(tokens.size() * static_cast<size_t>(model.spec.vocab_size));
  const StepItem item{sequence.get(), tokens, true, out.data()};
  engine->feed(std::span(&item, 1));
  const auto last = engine->logits(*sequence);
  EXPECT_TRUE(std::equal(last.begin(), last.end(),
                         out.end() - static_cast<std::ptrdiff_t>(model.spec.vocab_size)));
  return out;
}

// The same, one token at a time.
Logits step_by_step(const ModelData& model, const std::vector<int32_t>& tokens, const Decoding& run,
                    int64_t prompt = 0) {
  const auto engine = make_engine(model, run);
  const auto sequence = engine->start(run.cache, run.policy, false);
  Logits out(tokens.size() * static_cast<size_t>(model.spec.vocab_size));
  const int64_t vocab = model.spec.vocab_size;
  for (size_t t = 0; t < tokens.size();) {
    const size_t take = t == 0 && prompt > 0 ? static_cast<size_t>(prompt) : 1;
    const StepItem item{sequence.get(), std::span(tokens).subspan(t, take), true,
                        out.data() + static_cast<int64_t>(t) * vocab};
    engine->feed(std::span(&item, 1));
    t += take;
  }
  return out;
}

std::vector<double> reference_logits(const ModelData& model, const std::vector<int32_t>& tokens) {
  test::Weights<double> weights;
  for (const auto& [name, t] : model.tensors) {
    const auto floats = to_floats(t.load());
    weights[name].assign(floats.begin(), floats.end());
  }
  const auto rows = test::ReferenceModel<double>(model.spec, weights, model.rotation)
                        .logits(tokens, marker_token(model));
  std::vector<double> out;
  for (const auto& row : rows) out.insert(out.end(), row.begin(), row.end());
  return out;
}

TEST(Engine, LogitsEqualTheReference) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 21);
    const auto tokens = test::random_tokens(37, spec.vocab_size, 4);
    const auto expected = reference_logits(model, tokens);
    EXPECT_TRUE(
        test::within(one_shot(model, tokens, {}), expected, test::logit_bound(spec, expected)));
  }
}

TEST(Engine, KQuantLogitsEqualTheReference) {
  const ModelData model = test::random_block_model(23);
  const auto tokens = test::random_tokens(21, model.spec.vocab_size, 4);
  const auto expected = reference_logits(model, tokens);
  EXPECT_TRUE(
      test::within(one_shot(model, tokens, {}), expected, test::logit_bound(model.spec, expected)));
}

TEST(Engine, RotatedLogitsEqualTheReferenceAndTheOriginal) {
  Recipe recipe;
  recipe.embedding = DType::kF32;
  for (const auto& [name, spec] : test::all_small_specs()) {
    SCOPED_TRACE(name);
    recipe.rotation = test::possible_rotations(spec, 3);
    const ModelData model = test::random_model(spec, 22);
    ModelData rotated = quantize_model(model, recipe);
    const auto tokens = test::random_tokens(21, spec.vocab_size, 4);
    const auto expected = reference_logits(rotated, tokens);
    EXPECT_TRUE(test::within(one_shot(rotated, tokens, {}), expected,
                             test::logit_bound(rotated.spec, expected)));
    // Linear maps are fp16 in this recipe: 2^-11 relative per weight.
    EXPECT_LE(test::relative_l2(expected, reference_logits(model, tokens)), 0x1p-11 * 16);
  }
}

TEST(Engine, QuantizedLogitsEqualTheReferenceOnTheSameCodes) {
  for (int bits : {4, 8}) {
    Recipe recipe;
    recipe.weights = {bits, 8, ClipKind::kSearch};
    recipe.head = {8, 0, ClipKind::kNone};
    for (const auto& [name, spec] : test::all_small_specs()) {
      SCOPED_TRACE(name);
      recipe.rotation = test::possible_rotations(spec, 3);
      const ModelData model = quantize_model(test::random_model(spec, 23), recipe);
      const auto tokens = test::random_tokens(11, spec.vocab_size, 4);
      const auto expected = reference_logits(model, tokens);
      EXPECT_TRUE(test::within(one_shot(model, tokens, {}), expected,
                               test::logit_bound(model.spec, expected)));
    }
  }
}

// The arithmetic contract, bit for bit: chunked = one-shot = one by one = any thread count.
void expect_contract(const std::string& name, const ModelSpec& spec,
                     std::span<const CodecKind> codecs) {
  const ModelData model = test::random_model(spec, 24);
  const auto tokens = test::random_tokens(53, spec.vocab_size, 5);
  for (CodecKind codec : codecs) {
    SCOPED_TRACE(name + " " + std::string(codec_name(codec)));
    Decoding run;
    run.cache = {codec, codec};
    const Logits whole = one_shot(model, tokens, run);
    EXPECT_TRUE(test::within(step_by_step(model, tokens, run), whole, test::exact()));
    EXPECT_TRUE(test::within(step_by_step(model, tokens, run, 30), whole, test::exact()));
    for (int64_t chunk : {5, 16, 23}) {
      run.chunk = chunk;
      run.threads = 1 + static_cast<int>(chunk % 3);
      EXPECT_TRUE(test::within(one_shot(model, tokens, run), whole, test::exact())) << chunk;
    }
  }
}

TEST(Contract, ChunksStepsAndThreadsChangeNoBit) {
  for (const auto& [name, spec] : test::basic_specs()) expect_contract(name, spec, kCodecKinds);
}

TEST(Contract, ChunksStepsAndThreadsChangeNoBitOfVariants) {
  const CodecKind codecs[] = {CodecKind::kF32, CodecKind::kQ4};
  for (const auto& [name, spec] : test::variant_specs()) expect_contract(name, spec, codecs);
}

// Long enough for windows to release tiles while others still hold them.
TEST(Contract, ChunksAndStepsChangeNoBitOfLongWindows) {
  for (const auto& [name, spec] : test::variant_specs()) {
    if (!name.starts_with("window") && !name.starts_with("latent_w")) continue;
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 35);
    const auto tokens = test::random_tokens(200, spec.vocab_size, 5);
    Decoding run;
    run.cache = {CodecKind::kF16, CodecKind::kQ8};
    const Logits whole = one_shot(model, tokens, run);
    EXPECT_TRUE(test::within(step_by_step(model, tokens, run), whole, test::exact()));
    run.chunk = 37;
    EXPECT_TRUE(test::within(one_shot(model, tokens, run), whole, test::exact()));
    run.cache = {CodecKind::kF32, CodecKind::kF32};
    const auto expected = reference_logits(model, tokens);
    EXPECT_TRUE(test::within(step_by_step(model, tokens, run), expected,
                             test::logit_bound(spec, expected)));
  }
}

// Long enough that a head's rows are split among threads.
TEST(Contract, SplitsChangeNoBit) {
  const ModelSpec spec = test::spec_from_yaml(
      "kind: decoder\nvocab_size: 61\ncontext_length: 5000\n"
      "decoder: {d_model: 16, layers: 2, attention: {heads: 2, kv_heads: 1, head_dim: 8}, "
      "ffn: {d_ff: 16}}\n");
  const ModelData model = test::random_model(spec, 50);
  const auto tokens = test::random_tokens(4210, spec.vocab_size, 8);
  for (const char* policy : {"none", "h2o"}) {
    Logits expected;
    for (const int threads : {1, 2, 3}) {
      Decoding run;
      run.threads = threads;
      run.cache = {CodecKind::kQ4, CodecKind::kF16};
      run.policy = make_policy({policy, 4205, 2, 4}, kv_groups(spec));
      const auto engine = make_engine(model, run);
      const auto sequence = engine->start(run.cache, run.policy, false);
      Logits out(10 * static_cast<size_t>(spec.vocab_size));
      const StepItem prompt{sequence.get(), std::span(tokens).first(4200), true, nullptr};
      engine->feed(std::span(&prompt, 1));
      for (size_t t = 0; t < 10; ++t) {
        const StepItem item{sequence.get(), std::span(tokens).subspan(4200 + t, 1), true,
                            out.data() + t * static_cast<size_t>(spec.vocab_size)};
        engine->feed(std::span(&item, 1));
      }
      if (threads == 1) expected = out;
      ASSERT_EQ(out, expected) << policy << " " << threads;
    }
  }
}

// Layers, heads, rows and slots of splits add to one number: whichever thread comes first, in
// whatever pieces and company, a cache holds the same.
TEST(Contract, ScoresAreTheSameInAnyOrder) {
  const ModelSpec spec = test::spec_from_yaml(
      "kind: decoder\nvocab_size: 61\ncontext_length: 5000\n"
      "decoder: {d_model: 16, layers: 4, kv_sharing: cla2, "
      "attention: {heads: 6, kv_heads: 3, head_dim: 8}, ffn: {d_ff: 16}}\n");
  const ModelData model = test::random_model(spec, 51);
  const auto tokens = test::random_tokens(2312, spec.vocab_size, 9);
  const auto groups = kv_groups(spec);
  for (const std::string name : {"h2o", "tova", "kvcrush", "scissorhands", "zipcache"}) {
    Decoding run;
    PolicyOptions options{name, 2400, 2, 4};
    if (name == "kvcrush") options.crush = read_crush("scorer=scissorhands", 1);
    if (name == "kvcrush" || name == "scissorhands") options.window = 2000;
    if (name == "zipcache") {
      run.cache = {CodecKind::kF16, CodecKind::kF16};
      run.cache.zip = read_zip("every=40", 1);
    } else {
      run.cache = {CodecKind::kQ4, CodecKind::kF16};
      run.policy = make_policy(options, groups);
    }
    std::optional<CacheImage> expected;
    for (const int threads : {1, 2, 3}) {
      run.threads = threads;
      run.chunk = threads == 1 ? 4096 : 200 * threads;
      const auto engine = make_engine(model, run);
      std::vector<std::unique_ptr<Sequence>> sequences;
      std::vector<StepItem> items;
      for (int64_t b = 0; b < threads; ++b) {
        sequences.push_back(engine->start(run.cache, run.policy, false));
        items.push_back({sequences.back().get(), std::span(tokens).first(2300 - 30 * b), true, {}});
      }
      engine->feed(items);
      for (size_t t = 0; t < 12; ++t) {
        for (size_t b = 0; b < items.size(); ++b) {
          items[b].tokens = std::span(tokens).subspan(2300 - 30 * b + t, 1);
        }
        engine->feed(items);
      }
      const CacheImage image = sequences[0]->cache().image();
      if (!expected) expected = image;
      EXPECT_TRUE(image == *expected) << name << ", " << threads << " threads";
      const auto& scores = image.groups[0].lanes[0].scores;
      const bool kept = !scores.empty() && !scores[0].empty();
      EXPECT_TRUE(kept || name == "zipcache") << name;
    }
  }
}

TEST(Contract, BatchedEqualsAlone) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 25);
    Decoding run;
    run.threads = 2;
    run.cache = {CodecKind::kQ8, CodecKind::kQ4};
    const auto engine = make_engine(model, run);
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<std::vector<int32_t>> texts;
    std::vector<Logits> alone;
    for (int64_t b = 0; b < 4; ++b) {
      texts.push_back(
          test::random_tokens(11 + 13 * b, spec.vocab_size, 40 + static_cast<uint64_t>(b)));
      alone.push_back(one_shot(model, texts.back(), run));
      sequences.push_back(engine->start(run.cache, nullptr, false));
    }
    std::vector<StepItem> items;
    std::vector<Logits> together;
    for (const Logits& l : alone) together.emplace_back(l.size());
    for (size_t b = 0; b < 4; ++b) {
      items.push_back({sequences[b].get(), texts[b], true, together[b].data()});
    }
    engine->feed(items);
    for (size_t b = 0; b < 4; ++b) EXPECT_TRUE(test::within(together[b], alone[b], test::exact()));
  }
}

// Rows of a page where a policy that recalls pages is to have several within a small budget.
constexpr int64_t kSmallPage = 2;

// Invariant 5: a budget of at least the length equals no policy, for every policy, codec, model.
TEST(Contract, AWideBudgetEqualsNoPolicy) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 26);
    const auto tokens = test::random_tokens(50, spec.vocab_size, 6);
    for (CodecKind codec : kCodecKinds) {
      Decoding run;
      run.cache = {codec, codec};
      const Logits plain = step_by_step(model, tokens, run, 20);
      run.cache.page_rows = kSmallPage;
      const Logits plain_in_small_pages = step_by_step(model, tokens, run, 20);
      for (const std::string& policy : policy_names()) {
        SCOPED_TRACE(name + " " + policy + " " + std::string(codec_name(codec)));
        PolicyOptions options{policy, 51, 2, 3};
        // Nor does an uneven share of such a budget drop anything.
        if (policy == "h2o" || policy == "scissorhands" || policy == "kvcrush")
          options.layers = "falling";
        const bool small = policy == "arkvale";
        if (small) options.page_rows = kSmallPage;
        run.cache.page_rows = options.page_rows;
        run.policy = make_policy(options, kv_groups(spec));
        EXPECT_TRUE(test::within(step_by_step(model, tokens, run, 20),
                                 small ? plain_in_small_pages : plain, test::exact()));
      }
    }
  }
}

// Budget 9, sink 2, recent 3; a group with a window is bounded by itself and keeps all it sees.
void expect_kept(const SequenceCache& cache, const KvGroup& group, const std::string& policy,
                 int64_t prompt) {
  if (group.lifetime != KvLifetime::kSequence) return;
  const int64_t fed = cache.position(group.id);
  for (int64_t head = 0; head < group.heads; ++head) {
    const auto positions = cache.positions(group.id, head);
    std::vector<int32_t> p(positions.begin(), positions.end());
    const auto rows = static_cast<int64_t>(p.size());
    if (group.window > 0) {
      const int64_t unseen = std::max<int64_t>(0, fed + 1 - group.window);
      ASSERT_EQ(rows, fed - unseen / kAttentionTile * kAttentionTile);
      ASSERT_TRUE(std::is_sorted(p.begin(), p.end()));
      continue;
    }
    std::sort(p.begin(), p.end());
    ASSERT_EQ(std::adjacent_find(p.begin(), p.end()), p.end());
    if (policy == "scissorhands") {
      ASSERT_LE(rows, 9);
      ASSERT_GE(rows, std::min<int64_t>(fed, 6));  // four at once
    } else if (policy == "kvcrush") {
      // Nine when the prompt is in; a decoded row that would be the tenth leaves eight.
      int64_t held = std::min<int64_t>(prompt, 9);
      for (int64_t p = prompt; p < fed; ++p) held = held + 1 > 9 ? 8 : held + 1;
      ASSERT_EQ(rows, held);
    } else if (policy == "snapkv") {
      ASSERT_EQ(rows, std::min<int64_t>(prompt, 9) + fed - prompt);
    } else if (policy == "arkvale") {
      ASSERT_LE(rows, 9);
      ASSERT_GE(rows, std::min<int64_t>(fed, 9 - kSmallPage));  // whole pages
      ASSERT_TRUE(std::is_sorted(positions.begin(), positions.end()));
    } else if (policy != "pyramidkv") {
      ASSERT_EQ(rows, std::min<int64_t>(fed, 9));
    }
    ASSERT_EQ(p[0], 0);
    ASSERT_EQ(p[1], 1);
    for (int64_t r = 0; r < 3; ++r) {
      ASSERT_EQ(p[p.size() - 1 - static_cast<size_t>(r)], fed - 1 - r);
    }
  }
}

// PyramidKV's groups hold nine rows of the prompt on average.
void expect_pyramid(const SequenceCache& cache, std::span<const KvGroup> groups, int64_t prompt) {
  int64_t governed = 0, rows = 0, before = INT32_MAX;
  for (const KvGroup& group : groups) {
    if (!governs(group)) continue;
    ++governed;
    const int64_t own = cache.rows(group.id, 0) - (cache.position(group.id) - prompt);
    ASSERT_LE(own, before + 1);
    rows += before = own;
  }
  ASSERT_EQ(rows, governed * std::min<int64_t>(prompt, 9));
}

// A narrow budget acts, on every text of a batch and at every step: rows stay within it after the
// prompt and every later row, sinks and the newest rows stay, and the arithmetic contract still
// holds for the prompt's chunks, for batches, and for texts whose pages others had before.
void expect_budget(const ModelData& model, const std::string& policy) {
  const ModelSpec& spec = model.spec;
  const auto vocab = static_cast<size_t>(spec.vocab_size);
  Decoding run;
  run.cache = {CodecKind::kQ8, CodecKind::kQ8};
  PolicyOptions options{policy, 9, 2, 3};
  if (policy == "arkvale") run.cache.page_rows = options.page_rows = kSmallPage;
  run.policy = make_policy(options, kv_groups(spec));
  const auto engine = make_engine(model, run);
  std::vector<Logits> alone;
  const size_t lengths[] = {57, 40, 48};
  std::vector<std::vector<int32_t>> texts;
  for (const size_t length : lengths) {
    texts.push_back(
        test::random_tokens(static_cast<int64_t>(length) + 33, spec.vocab_size, length));
    run.chunk = alone.empty() ? 7 : 512;
    run.threads = alone.empty() ? 3 : 1;
    alone.push_back(step_by_step(model, texts.back(), run, static_cast<int64_t>(length)));
  }
  for (int again = 0; again < 2; ++again) {
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<int64_t> prompts(3);
    std::vector<Logits> logits;
    for (const auto& text : texts) {
      sequences.push_back(engine->start(run.cache, run.policy, false));
      logits.emplace_back(text.size() * vocab);
    }
    for (size_t step = 0; step <= 33; ++step) {
      std::vector<StepItem> items;
      for (size_t b = 0; b < 3; ++b) {
        const size_t at = step == 0 ? 0 : lengths[b] + step - 1, n = step == 0 ? lengths[b] : 1;
        items.push_back({sequences[b].get(), std::span(texts[b]).subspan(at, n), true,
                         logits[b].data() + at * vocab});
      }
      engine->feed(items);
      for (size_t b = 0; b < 3; ++b) {
        const SequenceCache& cache = sequences[b]->cache();
        if (step == 0) prompts[b] = cache.position(0);
        for (const KvGroup& group : engine->groups()) {
          ASSERT_NO_FATAL_FAILURE(expect_kept(cache, group, policy, prompts[b])) << b;
        }
        if (policy == "pyramidkv") {
          ASSERT_NO_FATAL_FAILURE(expect_pyramid(cache, engine->groups(), prompts[b]));
        }
      }
    }
    for (size_t b = 0; b < 3; ++b) {
      EXPECT_TRUE(test::within(logits[b], alone[b], test::exact())) << "text " << b;
    }
  }
}

TEST(Policies, KeepTheBudgetTheSinksAndTheNewestRows) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 27);
    for (const std::string& policy : policy_names()) {
      if (policy == "none") continue;
      SCOPED_TRACE(name + " " + policy);
      ASSERT_NO_FATAL_FAILURE(expect_budget(model, policy));
    }
  }
}

// Rows keep the rotation of their true position however few are held: the newest W rows, kept by a
// policy, are what a window of W + 1 sees.
TEST(Policies, PositionsAreNotRowNumbers) {
  const std::string attention = "heads: 4, kv_heads: 2, head_dim: 8";
  const ModelSpec plain = test::decoder_variant(attention);
  const ModelSpec windowed = test::decoder_variant(attention + ", window: 14");
  ModelData model = test::random_model(plain, 29);
  const auto tokens = test::random_tokens(90, plain.vocab_size, 9);
  Decoding run;
  run.policy = make_policy({"streaming", 13, 0, -1}, kv_groups(plain));
  const Logits evicted = step_by_step(model, tokens, run);
  model.spec = windowed;
  const auto expected = reference_logits(model, tokens);
  EXPECT_TRUE(test::within(evicted, expected, test::logit_bound(windowed, expected)));
}

// A package may claim rotations that its architecture cannot have.
TEST(Engine, ImpossibleRotationsAreRefused) {
  const auto refuses = [](const ModelSpec& spec, bool StackRotation::*claim,
                          const std::vector<std::string>& fragments) {
    ModelData model = test::random_model(spec, 36);
    model.rotation.stacks.resize(spec.stacks.size());
    model.rotation.stacks[0].*claim = true;
    test::expect_error(ErrorCode::kData, fragments, [&] { make_engine(model, {}); });
  };
  refuses(test::small_latent(), &StackRotation::keys, {"model layer 0", "latent attention"});
  refuses(test::block_variant(", embedder: projection"), &StackRotation::slots,
          {"'slots'", "lookup embedder"});
}

TEST(Engine, MemoryReturnsWhenSequencesEnd) {
  const ModelData model = test::random_model(test::small_decoder(), 28);
  const auto engine = make_engine(model, {});
  const auto tokens = test::random_tokens(100, model.spec.vocab_size, 8);
  auto sequence = engine->start({CodecKind::kQ4, CodecKind::kQ4}, nullptr, false);
  const StepItem item{sequence.get(), tokens, true, nullptr};
  engine->feed(std::span(&item, 1));
  // 100 rows: 6 pages of 16 encoded rows and one raw page, per group: 4 groups of 2 heads of 8.
  const int64_t page = 16 * 2 * (2 * (4 + 4));
  const int64_t raw = 16 * 2 * (8 + 8) * 4;
  EXPECT_EQ(sequence->cache().bytes().pages, 4 * (6 * page + raw));
  // Positions of 128 rows, and 8 entries of a page table.
  EXPECT_EQ(sequence->cache().bytes().tables, 4 * (128 * 4 + 8 * 16));
  EXPECT_EQ(sequence->kv_bytes(), sequence->cache().bytes().total());
}

// A window bounds the cache: its bytes repeat with what is released at once, `unit` positions.
void expect_bounded(CodecKind value_codec, int64_t value_bytes, size_t unit, int64_t pages) {
  const ModelSpec spec =
      test::decoder_variant("heads: 4, kv_heads: 2, head_dim: 8, window: 33", "", "d_ff: 24", "");
  const ModelData model = test::random_model(spec, 33);
  const auto engine = make_engine(model, {});
  const auto sequence = engine->start({CodecKind::kQ4, value_codec}, nullptr, false);
  const auto tokens = test::random_tokens(250, spec.vocab_size, 8);
  std::vector<int64_t> bytes;
  for (size_t t = 0; t < tokens.size();) {
    const size_t take = t == 0 ? 100 : 1;
    const StepItem item{sequence.get(), std::span(tokens).subspan(t, take), true, nullptr};
    engine->feed(std::span(&item, 1));
    t += take;
    bytes.resize(t, 0);
    bytes.back() = sequence->cache().bytes().pages;
  }
  for (size_t t = 100 + unit; t < bytes.size(); ++t) ASSERT_EQ(bytes[t], bytes[t - unit]) << t;
  // Encoded pages and the raw one of four groups.
  const int64_t page = 16 * 2 * ((8 / 2 + 4) + (value_bytes + 4)), raw = 16 * 2 * (8 + 8) * 4;
  EXPECT_EQ(*std::max_element(bytes.begin(), bytes.end()), 4 * (pages * page + raw));
}
TEST(Engine, WindowsBoundTheCache) {
  expect_bounded(CodecKind::kQ8, 8, 64, 5);       // at most 33 + 62 rows
  expect_bounded(CodecKind::kQ4, 8 / 2, 128, 9);  // at most 33 + 126 rows
}

// A latent row is one key that holds the value: key bytes only.
TEST(Engine, LatentsAreCachedOnce) {
  const ModelData model = test::random_model(test::small_latent(), 34);
  const auto engine = make_engine(model, {});
  const auto tokens = test::random_tokens(64, model.spec.vocab_size, 8);
  for (const auto& [codec, bytes] : {std::pair{CodecKind::kF32, 64},
                                     {CodecKind::kF16, 32},
                                     {CodecKind::kQ8, 20},
                                     {CodecKind::kQ4, 12}}) {
    auto sequence = engine->start({codec, CodecKind::kF32}, nullptr, false);
    const StepItem item{sequence.get(), tokens, true, nullptr};
    engine->feed(std::span(&item, 1));
    EXPECT_EQ(sequence->cache().bytes().pages, 4 * 64 * bytes) << codec_name(codec);
  }
}

TEST(Engine, BadInputIsRefusedBeforeAnythingChanges) {
  const ModelData model = test::random_model(test::small_decoder(), 29);
  const auto engine = make_engine(model, {});
  const auto sequence = engine->start({}, nullptr);
  const auto refuses = [&](const std::vector<int32_t>& tokens, const std::string& fragment) {
    const StepItem item{sequence.get(), tokens, true, nullptr};
    test::expect_error(ErrorCode::kRequest, {fragment}, [&] { engine->feed(std::span(&item, 1)); });
    EXPECT_EQ(sequence->length(), 0);
  };
  refuses({1, 61}, "token 61 is outside the vocabulary of 61");
  refuses({-1}, "token -1");
  refuses(std::vector<int32_t>(256, 1), "257 tokens, the model's context is 256");
  EngineOptions tight;
  tight.memory_budget = 4096;
  test::expect_error(ErrorCode::kResource, {"memory budget of 4096"},
                     [&] { Engine small(model, tight); });
}

TEST(Generate, GreedyIsTheArgmaxChainAndStopsAtTheContext) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    SCOPED_TRACE(name);
    const ModelData model = test::random_model(spec, 30);
    const auto engine = make_engine(model, {});
    const auto sequence = engine->start({CodecKind::kF32, CodecKind::kF32}, nullptr);
    GenerateRequest request;
    request.prompt = test::random_tokens(5, spec.vocab_size, 9);
    request.max_tokens = 10000;
    int64_t seen = 0;
    const GenerateResult result =
        generate(*engine, *sequence, request, [&](int32_t) { return ++seen < 40; });
    EXPECT_EQ(result.finish, "interrupted");
    std::vector<int32_t> text = {marker_token(model)};
    if (spec.block) text.clear();
    text.insert(text.end(), request.prompt.begin(), request.prompt.end());
    const size_t begin = text.size();
    text.insert(text.end(), result.tokens.begin(), result.tokens.end());
    const auto logits = reference_logits(model, text);
    for (size_t t = begin; t < text.size(); ++t) {
      const auto row = logits.begin() +
                       static_cast<std::ptrdiff_t>((t - 1) * static_cast<size_t>(spec.vocab_size));
      const double top = *std::max_element(row, row + spec.vocab_size);
      EXPECT_LE(top - row[text[t]], test::logit_bound(spec, logits).absolute) << t;
    }
    const auto other = engine->start({}, nullptr);
    const GenerateResult full = generate(*engine, *other, request, [](int32_t) { return true; });
    EXPECT_EQ(full.finish, "context");
    EXPECT_EQ(other->length(), spec.context_length);
  }
}

}  // namespace
}  // namespace ashlar

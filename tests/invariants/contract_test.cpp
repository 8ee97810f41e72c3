// The arithmetic contract (docs/architecture.md) for every configs/smoke/*.yaml and every codec: a
// text alone, in a batch, in pieces and on any number of threads gives the same bits.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

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

}  // namespace
}  // namespace ashlar

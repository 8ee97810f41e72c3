// A real model that nobody here trained: karpathy's stories260K, imported from llama2.c's format.

#include <gtest/gtest.h>

#include <cmath>

#include "data/tokenizer/hf_json.h"
#include "engine/decode/budget.h"
#include "engine/decode/generate.h"
#include "kernels/elementwise.h"
#include "package/format/package.h"
#include "package/import/open_model.h"
#include "quantize/quantize.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = test::shared_data("stories260K.bin");
    const auto golden = test::shared_data("stories260K.greedy.txt");
    if (path.empty() || golden.empty()) GTEST_SKIP() << "stories260K is absent";
    model_ = open_model(path);
    golden_ = test::read_text(golden);
    tokenizer_ = parse_hf_tokenizer(model_.tokenizer_json, "tokenizer.json");
  }

  std::string greedy(const ModelData& model, const CacheOptions& cache, int64_t tokens) {
    Engine engine(model, {});
    const auto sequence = engine.start(cache, nullptr);
    GenerateRequest request;
    const std::string prompt = "Once upon a time";
    request.prompt = tokenizer_->encode(prompt);
    request.max_tokens = tokens;
    request.stop_tokens = model.stop_tokens;
    StreamDecoder decoder(*tokenizer_, false);
    std::string text = prompt;
    generated_ = generate(engine, *sequence, request, [&](int32_t token) {
      text += decoder.push(token);
      return true;
    });
    return text + decoder.finish();
  }

  // Perplexity of the golden text itself.
  double perplexity(const ModelData& model, const CacheOptions& cache) {
    Engine engine(model, {});
    const auto sequence = engine.start(cache, nullptr);
    std::vector<int32_t> tokens = tokenizer_->encode(golden_);
    std::vector<float> logits(tokens.size() * static_cast<size_t>(model.spec.vocab_size));
    const StepItem item{sequence.get(), tokens, true, logits.data()};
    engine.feed(std::span(&item, 1));
    double nll = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const float* row = logits.data() + static_cast<int64_t>(i) * model.spec.vocab_size;
      nll += log_sum_exp(row, model.spec.vocab_size) - static_cast<double>(row[tokens[i + 1]]);
    }
    return std::exp(nll / static_cast<double>(tokens.size() - 1));
  }

  // Of the golden text behind its first 60 tokens, read one by one through the cache.
  double streamed(const std::string& codec, const std::string& zip = "") {
    CacheRequest request;
    request.codec = codec;
    request.zip = zip;
    Engine engine(model_, {});
    const auto sequence = engine.start(cache_options(request, model_.spec, "", ""), nullptr);
    const std::vector<int32_t> tokens = tokenizer_->encode(golden_);
    double nll = 0;
    constexpr size_t kPrompt = 60;
    for (size_t at = 0; at + 1 < tokens.size(); at += at == 0 ? kPrompt : 1) {
      const size_t n = at == 0 ? kPrompt : 1;
      const StepItem item{sequence.get(), std::span(tokens).subspan(at, n)};
      engine.feed(std::span(&item, 1));
      const auto row = engine.logits(*sequence);
      nll += log_sum_exp(row.data(), model_.spec.vocab_size) -
             static_cast<double>(row[static_cast<size_t>(tokens[at + n])]);
    }
    return std::exp(nll / static_cast<double>(tokens.size() - kPrompt));
  }

  ModelData quantized(int bits, const std::string& codec) {
    Recipe recipe;
    recipe.rotation = {true, true, true, true, true, 1};
    recipe.weights = {bits, 16,
                      ClipKind::kSearch};  // 172 is no multiple of 16: a ragged last group
    recipe.head = {8, 16, ClipKind::kSearch};
    recipe.kv = {codec, codec};
    return quantize_model(model_, recipe);
  }

  ModelData model_;
  std::string golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
  GenerateResult generated_;
};

TEST_F(Stories, GreedyTextEqualsTheAuthorsCharacterForCharacter) {
  EXPECT_EQ(greedy(model_, {CodecKind::kF32, CodecKind::kF32}, 252) + "\n", golden_);
}

TEST_F(Stories, LeftAloneItEndsWithBosAfter346Ids) {
  greedy(model_, {CodecKind::kF32, CodecKind::kF32}, 1000);
  EXPECT_EQ(generated_.finish, "stop");
  // The prompt's five ids (BOS included) and the generated ones.
  EXPECT_EQ(generated_.tokens.size() + 5, 346u);
}

TEST_F(Stories, ThePackageDecodesTheSameText) {
  const test::TempDir dir;
  write_package(model_, dir / "stories");
  const ModelData back = open_model(dir / "stories");
  EXPECT_EQ(greedy(back, {CodecKind::kF32, CodecKind::kF32}, 252) + "\n", golden_);
}

// FFN 172 needs the Hadamard matrix of order 172; head_dim is 8.
TEST_F(Stories, RotatedAndQuantizedItStillDecodes) {
  const double before = perplexity(model_, {CodecKind::kF32, CodecKind::kF32});
  const double w8 = perplexity(quantized(8, "q8"), {CodecKind::kQ8, CodecKind::kQ8});
  const double w4 = perplexity(quantized(4, "q4"), {CodecKind::kQ4, CodecKind::kQ4});
  fmt::print("perplexity of the golden text: fp32 {:.4f}, W8+KV8 {:.4f}, W4+KV4 {:.4f}\n", before,
             w8, w4);
  // The model wrote this text, so quantization can only make it less likely.
  EXPECT_LT(w8, before * 1.02);
  EXPECT_LT(w4, before * 1.6);
  const std::string text = greedy(quantized(4, "q4"), {CodecKind::kQ4, CodecKind::kQ4}, 60);
  EXPECT_EQ(text.rfind("Once upon a time, there was a", 0), 0u) << text;
}

// Most of what 2 bits lose comes back with 4 bits for the rows that got attention.
TEST_F(Stories, ZipCacheKeepsWhatGotAttention) {
  const double fp16 = streamed("fp16"), q4 = streamed("q4"), q2 = streamed("q2");
  const double zip = streamed("zipcache", "every=40"),
               four = streamed("zipcache", "every=40,salient=1");
  const double two = streamed("zipcache", "every=40,salient=0");
  fmt::print(
      "perplexity: fp16 {:.4f}, q4 {:.4f}, q2 {:.4f}, zipcache {:.4f}, 4 bits {:.4f}, 2 {:.4f}\n",
      fp16, q4, q2, zip, four, two);
  EXPECT_LT(zip, fp16 * 1.08);
  EXPECT_LT(four, zip);
  EXPECT_LT(zip - fp16, 0.2 * (two - fp16));
  EXPECT_LT(two, q2);
  EXPECT_EQ(streamed("zipcache", "every=100000"), fp16);
}

}  // namespace
}  // namespace ashlar

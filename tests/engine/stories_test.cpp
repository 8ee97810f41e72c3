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

}  // namespace
}  // namespace ashlar

#include <gtest/gtest.h>

#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/train_bpe.h"
#include "export/gguf.h"
#include "package/import/open_model.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

const std::vector<std::string> kTexts = {"", " ", "Once upon a time, there was a little girl.",
                                         "  two  spaces\n\nand\ttabs 12 345 6789",
                                         "naïve café 日本 😀 I'm You'll DON'T"};
const std::string kSpecial = "<s> </s> <|endoftext|> <0x0A> [PAD3]";
const std::string kLowerBlock = "a \xe2\x96\x81 b";

// A small model with this tokenizer, through a GGUF file and back.
class GgufTokenizer : public ::testing::Test {
 protected:
  ModelData model_of(const std::string& json, int64_t vocab) {
    ModelData model = test::random_model(
        test::spec_from_yaml("kind: decoder\nvocab_size: " + std::to_string(vocab) +
                             "\ncontext_length: 64\ntied_head: true\ndecoder: {d_model: 8, layers: "
                             "1, attention: {heads: 1, head_dim: 8}, ffn: {d_ff: 8}}\n"),
        1);
    model.tokenizer_json = json;
    model.start_token.reset();
    return model;
  }

  void expect_same_ids(const std::string& json, const std::vector<std::string>& more) {
    std::vector<std::string> texts = kTexts;
    texts.insert(texts.end(), more.begin(), more.end());
    test::write_text(dir_ / "tokenizer.json", json);
    const auto before = load_tokenizer(dir_ / "tokenizer.json");
    // Three ids beyond the tokenizer's, as models pad their tables.
    const ModelData model = model_of(json, before->vocab_size() + 3);
    write_gguf(model, dir_ / "m.gguf", GgufFileType::kF16);
    const ModelData back = open_model(dir_ / "m.gguf");
    EXPECT_FALSE(back.start_token.has_value());
    const auto after = load_tokenizer(dir_ / "m.gguf");
    ASSERT_EQ(after->vocab_size(), model.spec.vocab_size);
    for (const std::string& text : texts) {
      for (const bool special : {false, true}) {
        const auto ids = before->encode(text, {false, special});
        EXPECT_EQ(after->encode(text, {false, special}), ids) << text;
        EXPECT_EQ(after->decode(ids, true), before->decode(ids, true)) << text;
      }
    }
    for (int32_t id = 0; id < before->vocab_size(); ++id) {
      ASSERT_EQ(after->is_special(id), before->is_special(id)) << id;
    }
  }

  void refuses(const std::string& json, const std::string& fragment) {
    test::write_text(dir_ / "tokenizer.json", json);
    const int64_t vocab = load_tokenizer(dir_ / "tokenizer.json")->vocab_size();
    test::expect_error(ErrorCode::kRequest, {"GGUF cannot hold this tokenizer: ", fragment}, [&] {
      write_gguf(model_of(json, vocab), dir_ / "m.gguf", GgufFileType::kF16);
    });
    EXPECT_FALSE(fs::exists(dir_ / "m.gguf"));
  }

  test::TempDir dir_;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST_F(GgufTokenizer, OfGoldenFilesKeepTheirIds) {
  for (const char* name : {"qwen2", "qwen3", "llama_legacy", "gptneox"}) {
    SCOPED_TRACE(name);
    const fs::path file = fs::path("tests/golden/gguf") / (std::string(name) + ".gguf");
    expect_same_ids(load_tokenizer(file)->json(), {kSpecial, kLowerBlock});
    fs::remove(dir_ / "m.gguf");
  }
}

TEST_F(GgufTokenizer, OfOurTrainingKeepsItsIds) {
  BpeTrainer trainer({.vocab_size = 400});
  trainer.add(std::vector<std::string>{read_file("LICENSE")});
  expect_same_ids(trainer.train(), {kSpecial, kLowerBlock});
}

TEST_F(GgufTokenizer, OfLlama2cKeepsItsIds) {
  const fs::path real = test::shared_data("tok512.bin");
  if (real.empty()) GTEST_SKIP() << "tok512.bin is absent";
  // GGUF spells spaces U+2581, so that such a character in a text becomes one.
  expect_same_ids(load_tokenizer(real)->json(), {kSpecial});
}

TEST_F(GgufTokenizer, OfPublishedFamiliesKeepTheirIds) {
  int found = 0;
  for (const char* name :
       {"mistral-v3.tokenizer.model", "neox-olmo.tokenizer.json", "phi3.tokenizer.json"}) {
    SCOPED_TRACE(name);
    const fs::path real = test::shared_data(std::string("tokenizers/") + name);
    if (real.empty()) continue;
    ++found;
    // Phi 3's tokens take the space behind them along, which GGUF cannot say: a warning.
    const bool strips = std::string(name) == "phi3.tokenizer.json";
    expect_same_ids(load_tokenizer(real)->json(),
                    strips ? std::vector<std::string>{} : std::vector{kSpecial, kLowerBlock});
    fs::remove(dir_ / "m.gguf");
  }
  if (found == 0) GTEST_SKIP() << "the shared tokenizers are absent";
}

TEST_F(GgufTokenizer, UnknownStepsAreRefused) {
  BpeTrainer trainer({.vocab_size = 300});
  trainer.add(std::vector<std::string>{read_file("LICENSE")});
  const std::string json = trainer.train();
  refuses(replaced(json, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}"),
          "its pre-tokenizer is none of ");
  const std::string llama = load_tokenizer("tests/golden/gguf/llama_legacy.gguf")->json();
  refuses(replaced(llama, "\"prepend\": \"\xe2\x96\x81\"", "\"prepend\": \"x\""),
          "its normalizer does more than mark spaces");
}

}  // namespace
}  // namespace ashlar

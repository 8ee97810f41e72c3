#include <gtest/gtest.h>

#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/train_bpe.h"
#include "tests/support/files.h"

// Against ids and vocabularies made by Hugging Face `tokenizers` 0.22.1
// (tests/golden/make_tokenizer_golden.py).
namespace ashlar {
namespace {

const Node& golden() {
  static const Node node = load_json("tests/golden/tokenizer_golden.json");
  return node;
}

std::vector<std::string> texts() {
  std::vector<std::string> out;
  for (const Node& text : golden().find("texts")->as_list()) out.push_back(text.as_string());
  return out;
}

std::vector<std::string> corpus() {
  const std::string license = test::read_text("LICENSE");
  std::vector<std::string> documents;
  for (size_t at = 0; at <= license.size();) {
    const size_t end = std::min(license.find("\n\n", at), license.size());
    if (end > at) documents.push_back(license.substr(at, end - at));
    at = end + 2;
  }
  for (std::string& text : texts()) documents.push_back(std::move(text));
  return documents;
}

std::vector<int32_t> ids_of(const Node& list) {
  std::vector<int32_t> ids;
  for (const Node& id : list.as_list()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

void expect_ids(const Tokenizer& tokenizer, const Node& expected) {
  const std::vector<std::string> inputs = texts();
  ASSERT_EQ(inputs.size(), expected.as_list().size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(inputs[i], {.parse_special = true}), ids_of(expected.as_list()[i]))
        << "text " << i << ": " << inputs[i];
  }
}

TEST(TokenizerGolden, TrainedVocabularyEqualsHuggingFace) {
  const std::vector<std::string> documents = corpus();
  for (const Node& expected : golden().find("trained")->as_list()) {
    BpeTrainOptions options;
    options.vocab_size = expected.find("vocab_size")->as_int();
    options.special_tokens.clear();
    for (const Node& token : expected.find("special")->as_list()) {
      options.special_tokens.push_back(token.as_string());
    }
    options.threads = 2;
    BpeTrainer trainer(options);
    trainer.add(documents);
    const std::string text = trainer.train();
    const Node json = parse_json(text, "trained");
    const Node::Map& vocab = json.find("model")->find("vocab")->as_map();
    const Node::List& expected_vocab = expected.find("vocab")->as_list();
    ASSERT_EQ(vocab.size(), expected_vocab.size());
    for (size_t id = 0; id < vocab.size(); ++id) {
      ASSERT_EQ(vocab[id].second.as_int(), static_cast<int64_t>(id));
      ASSERT_EQ(vocab[id].first, expected_vocab[id].as_string()) << "id " << id;
    }
    const Node::List& merges = json.find("model")->find("merges")->as_list();
    const Node::List& expected_merges = expected.find("merges")->as_list();
    ASSERT_EQ(merges.size(), expected_merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      const Node::List& pair = merges[i].as_list();
      ASSERT_EQ(pair[0].as_string() + " " + pair[1].as_string(), expected_merges[i].as_string());
    }
    const auto tokenizer = parse_hf_tokenizer(text, "trained");
    EXPECT_EQ(tokenizer->eos_id(), std::optional<int32_t>(0));
    expect_ids(*tokenizer, *expected.find("ids"));
  }
}

TEST(TokenizerGolden, PublishedVocabularies) {
  for (const std::string name : {"neox-olmo", "whisper", "dolma2", "phi3"}) {
    const auto path = test::shared_data("tokenizers/" + name + ".tokenizer.json");
    if (path.empty()) GTEST_SKIP() << "needs shared data: tokenizers/" << name;
    const auto tokenizer = load_tokenizer(path);
    SCOPED_TRACE(name);
    expect_ids(*tokenizer, *golden().find(name)->find("ids"));
    EXPECT_EQ(tokenizer->encode("Hello", {.add_special = true}),
              ids_of(*golden().find(name)->find("special")));
  }
}

}  // namespace
}  // namespace ashlar

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/base/rng.h"
#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/sentencepiece.h"
#include "tests/data/families.h"
#include "tests/support/files.h"

// Damaged vocabularies: each mutation of a good file is either refused with an Error or opens, and
// then encodes and decodes. ASHLAR_MUTATIONS asks for more of them than the everyday number, for a
// run under the sanitizers.
namespace ashlar {
namespace {

using namespace test_families;  // NOLINT

int mutations() {
  const char* wanted = std::getenv("ASHLAR_MUTATIONS");
  return wanted == nullptr ? 150 : std::atoi(wanted);
}

/// One to four changes: bytes flipped, cut out, doubled, the end lost, or a word that hurts put in.
std::string mutated(std::string bytes, const std::vector<std::string>& words, uint64_t seed) {
  const Philox random(seed);
  uint64_t draw = 0;
  const auto below = [&](size_t bound) {
    return static_cast<size_t>(random.below(draw++, std::max<size_t>(bound, 1)));
  };
  for (size_t left = 1 + below(4); left > 0 && !bytes.empty(); --left) {
    const size_t at = below(bytes.size()), length = std::min(1 + below(40), bytes.size() - at);
    switch (below(5)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes.erase(at, length);
        break;
      case 2:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 3:
        if (below(3) == 0) bytes.resize(at);
        break;
      default:
        bytes.replace(at, std::min(below(12), bytes.size() - at), words[below(words.size())]);
    }
  }
  return bytes;
}

/// Counts what was refused; anything but an Error fails the test.
template <typename Open>
void expect_survived(const std::string& good, const std::vector<std::string>& words, Open open) {
  const std::string text = "Hello,  wor\xcc\x81ld 12345 \xe4\xbd\xa0 \xff<|im_start|>\n\n";
  int refused = 0;
  const int count = mutations();
  for (int i = 0; i < count; ++i) {
    SCOPED_TRACE(i);
    try {
      const std::unique_ptr<Tokenizer> tokenizer =
          open(mutated(good, words, static_cast<uint64_t>(i)));
      const std::vector<int32_t> ids =
          tokenizer->encode(text, {.add_special = true, .parse_special = true, .lossy = true});
      for (int32_t id : ids) EXPECT_LT(id, tokenizer->vocab_size());
      tokenizer->decode(ids);
      parse_hf_tokenizer(tokenizer->json(), "json")->encode(text, {.lossy = true});
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, count / 10);
  EXPECT_LT(refused, count);
}

const std::vector<std::string> kJsonWords = {
    "null",        "-1",       "99999999999", "4294967295",    "1e308",        "[]",
    "{}",          "\"\"",     "true",        "\"\\ud800\"",   "\"<0x00>\"",   "\"BPE\"",
    "\"Unigram\"", "\"NFKC\"", "\"(\"",       "\"(?:a*)*b\"",  "\"[^\"",       "{",
    "]",           ",",        "\"\\u2581\"", "\"Metaspace\"", "\"ByteLevel\""};

TEST(HostileVocabularies, TokenizerJson) {
  for (const std::string name : {"llama3", "llama2", "mistral3", "smollm"}) {
    SCOPED_TRACE(name);
    expect_survived(write_json(shape_of(name), 1), kJsonWords,
                    [](const std::string& bytes) { return parse_hf_tokenizer(bytes, "x.json"); });
  }
}

/// The parts around the vocabulary, which is most of the file: changes hit them more often here.
TEST(HostileVocabularies, TokenizerJsonAroundTheModel) {
  for (const std::string name : {"llama3", "llama2", "qwen2"}) {
    SCOPED_TRACE(name);
    const Node shape = shape_of(name);
    Node around = Node::map(), model = Node::map();
    for (const auto& [key, value] : shape.as_map()) {
      if (key != "model") around.set(key, value);
    }
    const std::string body = write_json(*shape.find("model"));
    expect_survived(write_json(around, 1), kJsonWords, [&](const std::string& bytes) {
      const size_t brace = bytes.find('{');
      const std::string rest = brace == std::string::npos ? "}" : bytes.substr(brace + 1);
      return parse_hf_tokenizer("{\"model\": " + body + "," + rest, "x.json");
    });
  }
}

TEST(HostileVocabularies, SentencePiece) {
  const std::vector<std::string> words = {std::string(4, '\0'), "\xff\xff\xff\xff\x0f",
                                          "\x0a\x00",           "\x12\xff\xff\x03",
                                          "\x18\x01",           "\xe2\x96\x81"};
  expect_survived(read_file("tests/golden/sentencepiece_tiny.model"), words,
                  [](const std::string& bytes) { return parse_sentencepiece(bytes, "x.model"); });
}

TEST(HostileVocabularies, Unigram) {
  const std::vector<std::string> words = {std::string(4, '\0'), "\xff\xff\xff\xff\x0f",
                                          "\x0a\x00",           "\x18\x02",
                                          "\x18\x04",           "\xe2\x96\x81"};
  for (const std::string name : {"rules", "bytes"}) {
    const std::string good = read_file("tests/golden/unigram_" + name + ".model");
    expect_survived(good, words,
                    [](const std::string& bytes) { return parse_sentencepiece(bytes, "x.model"); });
    // The character map, which is a smaller part of a file.
    expect_survived(good.substr(good.size() / 2), words, [&](const std::string& bytes) {
      return parse_sentencepiece(good.substr(0, good.size() / 2) + bytes, "x.model");
    });
    const std::string json = parse_sentencepiece(good, "x.model")->json();
    int refused = 0;
    for (int i = 0; i < mutations(); ++i) {
      try {
        parse_hf_tokenizer(mutated(json, kJsonWords, static_cast<uint64_t>(i)), "x.json");
      } catch (const Error&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, mutations() * 9 / 10);  // few mutations change nothing
  }
}

TEST(HostileVocabularies, Gguf) {
  const test::TempDir folder;
  std::vector<std::string> tokens, merges;
  for (const Node& token : base_of("smollm").find("vocab")->as_list()) {
    tokens.push_back(token.as_string());
  }
  for (const Node& merge : base_of("smollm").find("merges")->as_list()) {
    merges.push_back(merge.as_string());
  }
  GgufMetadata metadata;
  metadata.text("tokenizer.ggml.model", "gpt2");
  metadata.text("tokenizer.ggml.pre", "smollm");
  metadata.texts("tokenizer.ggml.tokens", tokens);
  metadata.texts("tokenizer.ggml.merges", merges);
  metadata.i32s("tokenizer.ggml.token_type", std::vector<int32_t>(tokens.size(), 1));
  GgufWriter(folder / "good.gguf", metadata, {}).commit();
  const std::vector<std::string> words = {std::string(8, '\xff'),
                                          std::string(8, '\0'),
                                          std::string("\x08\0\0\0", 4),
                                          "gpt2",
                                          "llama",
                                          "pre"};
  expect_survived(read_file(folder / "good.gguf"), words, [&](const std::string& bytes) {
    write_file_atomically(folder / "bad.gguf", bytes);
    return load_tokenizer(folder / "bad.gguf");
  });
}

}  // namespace
}  // namespace ashlar

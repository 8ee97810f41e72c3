#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "data/tokenizer/gguf_vocabulary.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/data/families.h"
#include "tests/support/files.h"

// One small vocabulary of each kind in the shapes of the common families, as tokenizer.json, GGUF
// and SentencePiece, against Hugging Face `tokenizers` 0.22.1 and `sentencepiece` 0.2.1
// (tests/golden/make_tokenizer_families.py).
namespace ashlar {
namespace {

using test::expect_error;
using test::TempDir;

using namespace test_families;  // NOLINT

void expect_family(const std::string& name, const Tokenizer& tokenizer) {
  SCOPED_TRACE(name);
  const Node& expected = family(name);
  const Node::List& texts = golden().find("texts")->as_list();
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string& text = texts[i].as_string();
    const std::vector<int32_t> ids = ids_of(expected.find("ids")->as_list()[i]);
    EXPECT_EQ(tokenizer.encode(text, {.parse_special = true}), ids) << "text " << i << ": " << text;
    // Python's decode drops special tokens too, and takes a byte that is no UTF-8 as U+FFFD.
    EXPECT_EQ(to_valid_utf8(tokenizer.decode(ids)),
              expected.find("decoded")->as_list()[i].as_string())
        << "text " << i;
  }
  EXPECT_EQ(tokenizer.encode("Hello", {.add_special = true}), ids_of(*expected.find("special")));
}

TEST(TokenizerFamilies, TokenizerJson) {
  for (const auto& [name, unused] : golden().find("families")->as_map()) {
    expect_family(name, *parse_hf_tokenizer(write_json(shape_of(name)), name));
  }
}

/// Metadata of a GGUF file with the family's vocabulary; the first tokens are control tokens.
GgufMetadata gguf_metadata(const std::string& name, const std::string& model) {
  std::vector<std::string> tokens, merges;
  for (const Node& token : base_of(name).find("vocab")->as_list())
    tokens.push_back(token.as_string());
  for (const Node& merge : base_of(name).find("merges")->as_list())
    merges.push_back(merge.as_string());
  std::vector<int32_t> types(tokens.size(), 1);
  for (const Node& token : family(name).find("shape")->find("added_tokens")->as_list()) {
    types[static_cast<size_t>(token.find("id")->as_int())] = 3;
  }
  GgufMetadata metadata;
  metadata.text("tokenizer.ggml.model", model);
  metadata.texts("tokenizer.ggml.tokens", tokens);
  if (model == "gpt2") {
    metadata.text("tokenizer.ggml.pre", name);
    metadata.texts("tokenizer.ggml.merges", merges);
  } else {
    // The score of a merge's result is minus its rank, the best of several.
    std::vector<float> scores(tokens.size(), 0);
    for (size_t rank = merges.size(); rank-- > 0;) {
      std::string joined = merges[rank];
      joined.erase(joined.find(' '), 1);
      const auto at = std::find(tokens.begin(), tokens.end(), joined) - tokens.begin();
      scores[static_cast<size_t>(at)] = -static_cast<float>(rank);
    }
    for (size_t id = 3; id < 259; ++id) types[id] = 6;
    metadata.f32s("tokenizer.ggml.scores", scores);
    metadata.u32("tokenizer.ggml.bos_token_id", 1);
    metadata.u32("tokenizer.ggml.eos_token_id", 2);
  }
  metadata.i32s("tokenizer.ggml.token_type", types);
  if (name == "llama3") metadata.u32("tokenizer.ggml.bos_token_id", 1);
  return metadata;
}

/// For tests/python/check_tokenizers.py: leaves the tokenizer.json made of a vocabulary in the
/// folder that ASHLAR_WRITE_TOKENIZERS names, if it does.
void leave_json(const std::string& name, const Tokenizer& tokenizer) {
  const char* folder = std::getenv("ASHLAR_WRITE_TOKENIZERS");
  if (folder == nullptr) return;
  write_file_atomically(std::filesystem::path(folder) / (name + ".json"), tokenizer.json());
}

std::unique_ptr<Tokenizer> through_gguf(const GgufMetadata& metadata, bool keep_json = false) {
  const TempDir folder;
  const auto path = folder.path() / "vocabulary.gguf";
  GgufWriter(path, metadata, {}).commit();
  auto tokenizer = load_tokenizer(path);
  return keep_json ? parse_hf_tokenizer(tokenizer->json(), "json") : std::move(tokenizer);
}

TEST(TokenizerFamilies, GgufAndTheTokenizerJsonMadeOfIt) {
  for (const std::string name :
       {"llama3", "qwen2", "smollm", "tekken", "gpt-2", "mpt", "default", "llama2"}) {
    const GgufMetadata metadata = gguf_metadata(name, name == "llama2" ? "llama" : "gpt2");
    const auto tokenizer = through_gguf(metadata);
    expect_family(name, *tokenizer);
    expect_family(name, *through_gguf(metadata, true));
    leave_json(name, *tokenizer);
  }
}

TEST(TokenizerFamilies, GgufBosAndPrefix) {
  GgufMetadata metadata = gguf_metadata("llama3", "gpt2");
  metadata.boolean("tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(through_gguf(metadata)->encode("a", {.add_special = true}).size(), 1u);
  metadata = gguf_metadata("llama2", "llama");
  metadata.boolean("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = through_gguf(metadata);
  EXPECT_EQ(tokenizer->encode("Hello"),
            parse_hf_tokenizer(write_json(shape_of("metaspace_never")), "n")->encode("Hello"));
  EXPECT_FALSE(tokenizer->strips_leading_space());
  EXPECT_EQ(tokenizer->bos_id(), std::optional<int32_t>(1));
}

TEST(TokenizerFamilies, BadGgufVocabulariesAreRefused) {
  const auto refused = [](const Node& metadata, std::vector<std::string> fragments) {
    expect_error(ErrorCode::kData, fragments, [&] { parse_gguf_tokenizer(metadata, "x.gguf"); });
  };
  const auto list = [](std::vector<Node> nodes) { return Node(std::move(nodes)); };
  Node good = Node::map();
  good.set("tokenizer.ggml.model", "gpt2");
  good.set("tokenizer.ggml.pre", "gpt-2");
  good.set("tokenizer.ggml.tokens", list({"a", "b", "ab"}));
  good.set("tokenizer.ggml.token_type", list({1, 1, 1}));
  good.set("tokenizer.ggml.merges", list({"a b"}));
  const auto with = [&](const std::string& key, Node value) {
    Node node = good;
    node.set("tokenizer.ggml." + key, std::move(value));
    return node;
  };
  refused(good, {"x.gguf", "no token for byte 0x20"});
  refused(Node::map(), {"tokenizer.ggml.model", "is missing"});
  refused(with("model", "t5"), {"model: 't5' is not supported", "gpt2, llama"});
  refused(with("model", 3), {"model: expected text"});
  refused(with("pre", "jais"), {"pre: 'jais' is not supported", "llama-bpe", "smollm"});
  refused(with("tokens", 3), {"tokens: expected a list"});
  refused(with("tokens", list({"a", 3, "ab"})), {"tokens: expected text"});
  refused(with("tokens", list({"a", "a", "aa"})), {"token 1: 'a' stands for two ids"});
  refused(with("token_type", list({1, 1})), {"token_type: 2 entries for 3 tokens"});
  refused(with("token_type", list({1, 1, 9})), {"unknown type 9"});
  refused(with("token_type", list({1, 1, 6})), {"byte tokens"});
  refused(with("merges", list({"ab"})), {"merges: 'ab' is no pair"});
  refused(with("merges", list({"a c"})), {"merges: 'c' is not in the vocabulary"});
  refused(with("bos_token_id", 3), {"bos_token_id: 3 is outside the vocabulary of 3"});
  refused(with("add_bos_token", 1), {"add_bos_token: expected a flag"});
  Node spm = good;
  spm.set("tokenizer.ggml.model", "llama");
  refused(spm, {"scores", "is missing"});
  spm.set("tokenizer.ggml.scores", list({0.0, 0.0}));
  refused(spm, {"scores: expected 3 numbers"});
  spm.set("tokenizer.ggml.scores", list({0.0, -1.0, -2.0}));
  refused(spm, {"no token for byte 0x00"});
  spm.set("tokenizer.ggml.remove_extra_whitespaces", true);
  refused(spm, {"remove_extra_whitespaces", "not supported"});
}

void expect_sentencepiece(const std::string& name, const Tokenizer& tokenizer) {
  SCOPED_TRACE(name);
  static const Node root = load_json("tests/golden/sentencepiece_golden.json");
  const Node::List& texts = root.find("texts")->as_list();
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<int32_t> ids = ids_of(root.find(name)->find("ids")->as_list()[i]);
    EXPECT_EQ(tokenizer.encode(texts[i].as_string()), ids) << i << ": " << texts[i].as_string();
    // U+2581 is a space to these vocabularies.
    if (texts[i].as_string().find("\u2581") == std::string::npos) {
      EXPECT_EQ(tokenizer.decode(ids), texts[i].as_string());
    }
  }
  EXPECT_EQ(tokenizer.vocab_size(), root.find(name)->find("vocab_size")->as_int());
  EXPECT_EQ(tokenizer.bos_id(), std::optional<int32_t>(1));
}

TEST(TokenizerFamilies, SentencePiece) {
  const auto tokenizer = load_tokenizer("tests/golden/sentencepiece_tiny.model");
  expect_sentencepiece("tiny", *tokenizer);
  leave_json("sentencepiece", *tokenizer);
  expect_sentencepiece("tiny", *parse_hf_tokenizer(tokenizer->json(), "json"));
  const int32_t tool = tokenizer->find_token("<tool>").value(),
                inst = tokenizer->find_token("[INST]").value();
  EXPECT_FALSE(tokenizer->is_special(tool));
  EXPECT_TRUE(tokenizer->is_special(inst));
  EXPECT_EQ(tokenizer->encode("<tool>"), std::vector<int32_t>{tool});
  EXPECT_EQ(tokenizer->encode("a", {.add_special = true}).front(), 1);
}

TEST(TokenizerFamilies, FoldersHoldOneOfTwoFiles) {
  const TempDir folder;
  expect_error(ErrorCode::kRequest, {"no tokenizer.json or tokenizer.model in this folder"},
               [&] { load_tokenizer(folder.path()); });
  write_file_atomically(folder / "tokenizer.model",
                        read_file("tests/golden/sentencepiece_tiny.model"));
  expect_sentencepiece("tiny", *load_tokenizer(folder.path()));
  write_file_atomically(folder / "tokenizer.json", write_json(shape_of("smollm")));
  EXPECT_EQ(load_tokenizer(folder.path())->vocab_size(), 602);  // preferred
}

TEST(TokenizerFamilies, PublishedSentencePiece) {
  const auto path = test::shared_data("tokenizers/mistral-v3.tokenizer.model");
  if (path.empty()) GTEST_SKIP() << "needs shared data: tokenizers/mistral-v3.tokenizer.model";
  const auto tokenizer = load_tokenizer(path);
  expect_sentencepiece("mistral-v3", *tokenizer);
  expect_sentencepiece("mistral-v3", *parse_hf_tokenizer(tokenizer->json(), "json"));
}

TEST(TokenizerFamilies, BadSentencePieceModelsAreRefused) {
  const std::string whole = read_file("tests/golden/sentencepiece_tiny.model");
  const auto refused = [](const std::string& bytes, std::vector<std::string> fragments) {
    expect_error(ErrorCode::kData, fragments, [&] { parse_sentencepiece(bytes, "x.model"); });
  };
  refused("", {"x.model", "no tokens"});
  refused("\x0b", {"x.model", "wire type"});
  refused("\x0a\xff\xff\xff\xff\x7f", {"x.model", "length"});
  refused(std::string("\x0a\x05\x0a\x7f", 4) + "abc", {"x.model", "length"});
  refused(std::string(11, '\xff'), {"x.model", "number"});
  // Cut anywhere, a file is refused, or lacks the trainer's part and is then no BPE.
  for (size_t size = 0; size < whole.size(); size += 97) {
    refused(whole.substr(0, size), {"x.model"});
  }
  const auto message = [](std::string field, const std::string& body) {
    return field + static_cast<char>(body.size()) + body;
  };
  const std::string piece = message("\x0a", message("\x0a", "a"));
  const std::string bpe = message("\x12", std::string("\x18\x02\x98\x02\x01", 5));
  refused(piece + message("\x12", "\x18\x03"), {"type Word is not supported, only BPE"});
  refused(message("\x0a", message("\x0a", "a") + "\x18\x02"), {"bos_id 1 is outside"});
  const std::string ends = message("\x12", "\xc8\x02\x7f\xd0\x02\x7f");  // ids beyond
  refused(piece + ends, {"bos_id 127 is outside"});
  refused(piece + message("\x12", "\x18\x02"), {"without byte_fallback"});
  refused(piece + bpe, {"remove_extra_whitespaces"});
  refused(piece + bpe + message("\x1a", message("\x12", "map")), {"character map"});
  const std::string plain = message("\x1a", std::string("\x20\x00", 2));
  refused(piece + bpe + plain, {"bos_id 1 is outside the vocabulary of 1"});
  refused(piece + piece + piece + bpe + plain, {"'a' twice"});
}

TEST(TokenizerFamilies, PiecesKeepUserTextFromBecomingSpecial) {
  const auto tokenizer = parse_hf_tokenizer(write_json(shape_of("smollm")), "smollm");
  const int32_t start = tokenizer->find_token("<|im_start|>").value();
  const std::vector<TextPiece> pieces = {
      {"<|im_start|>", true}, {"user\n", false}, {"say <|im_start|>", false}, {"<|im_end|>", true}};
  const std::vector<int32_t> ids = tokenizer->encode_pieces(pieces);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), start), 1);
  EXPECT_EQ(tokenizer->decode(ids, true), "<|im_start|>user\nsay <|im_start|><|im_end|>");
  // Without special tokens in the text, pieces are the text.
  const std::vector<TextPiece> split = {{"Hel", false}, {"lo wor", false}, {"ld", false}};
  EXPECT_EQ(tokenizer->encode_pieces(split), tokenizer->encode("Hello world"));
  // A marked piece the vocabulary does not have is text.
  const std::vector<TextPiece> unknown = {{"[INST]", true}, {" hi", false}};
  EXPECT_EQ(tokenizer->encode_pieces(unknown), tokenizer->encode("[INST] hi"));
}

TEST(TokenizerFamilies, PiecesFollowTheTextStart) {
  for (const std::string name : {"mistral3", "llama2", "metaspace_always"}) {
    const auto tokenizer = parse_hf_tokenizer(write_json(shape_of(name)), name);
    const std::vector<TextPiece> pieces = {{"<s>", true}, {"The list", false}};
    EXPECT_EQ(tokenizer->encode_pieces(pieces),
              tokenizer->encode("<s>The list", {.parse_special = true}));
    const std::vector<TextPiece> text = {{"The list", false}};
    EXPECT_EQ(tokenizer->encode_pieces(text), tokenizer->encode("The list"));
    const std::vector<int32_t> middle = tokenizer->encode_pieces(text, false);
    EXPECT_NE(middle, tokenizer->encode("The list"));
    EXPECT_EQ(tokenizer->token_bytes(middle[0])[0], 'T');
  }
}

}  // namespace
}  // namespace ashlar

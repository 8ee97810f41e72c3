#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/io/json.h"
#include "data/tokenizer/bpe_model.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/text.h"
#include "data/tokenizer/train_bpe.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::TempDir;

std::string trained_json(int64_t vocab_size = 400, int threads = 1) {
  BpeTrainOptions options;
  options.vocab_size = vocab_size;
  options.threads = threads;
  BpeTrainer trainer(options);
  const std::string text = test::read_text("LICENSE");
  std::vector<std::string> documents;
  for (size_t at = 0; at < text.size(); at += 500) documents.push_back(text.substr(at, 500));
  trainer.add(std::span(documents).subspan(0, 3));
  trainer.add(std::span(documents).subspan(3));
  return trainer.train();
}

const Tokenizer& trained() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      parse_hf_tokenizer(trained_json(), "trained.json");
  return *tokenizer;
}

std::string random_bytes(uint64_t seed, uint64_t length) {
  const Philox random(seed);
  std::string out;
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t kind = random.below(3 * i, 4);
    if (kind == 0) {
      append_utf8(out, static_cast<int32_t>(0x80 + random.below(3 * i + 1, 0xd000)));
    } else if (kind == 1) {
      out.push_back(static_cast<char>(random.below(3 * i + 1, 256)));
    } else {
      out.push_back(" ab,\n"[random.below(3 * i + 1, 5)]);
    }
  }
  return out;
}

TEST(Tokenizer, AnyBytesRoundTrip) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::string text = random_bytes(seed, seed);
    EXPECT_EQ(trained().decode(trained().encode(text)), text);
  }
}

TEST(Tokenizer, TrainingDoesNotDependOnThreads) {
  const std::string one = trained_json(600, 1);
  EXPECT_EQ(one, trained_json(600, 2));
  EXPECT_EQ(one, trained_json(600, 5));
  EXPECT_EQ(parse_hf_tokenizer(one, "a")->hash().size(), 64u);
}

TEST(Tokenizer, SpecialTokensAreTextUnlessAskedFor) {
  const std::string text = "one<|endoftext|>two";
  const std::vector<int32_t> plain = trained().encode(text);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 0), 0);
  EXPECT_EQ(trained().decode(plain), text);
  const std::vector<int32_t> parsed = trained().encode(text, {.parse_special = true});
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 0), 1);
  EXPECT_EQ(trained().decode(parsed), "onetwo");
  EXPECT_EQ(trained().decode(parsed, true), text);
  EXPECT_EQ(trained().eos_id(), std::optional<int32_t>(0));
  EXPECT_EQ(trained().bos_id(), std::nullopt);
  expect_error(ErrorCode::kRequest, {"token id 400 is outside the vocabulary of 400"},
               [] { trained().decode(std::vector<int32_t>{400}); });
}

TEST(Tokenizer, TrainerRefusesWhatItCannotDo) {
  BpeTrainOptions options;
  options.vocab_size = 256;
  expect_error(ErrorCode::kRequest, {"vocabulary size 256", "257"}, [&] { BpeTrainer t(options); });
  options.vocab_size = 5000;
  BpeTrainer trainer(options);
  const std::vector<std::string> documents{"too little text"};
  trainer.add(documents);
  expect_error(ErrorCode::kRequest, {"supports a vocabulary of", "5000 were asked for"},
               [&] { trainer.train(); });
}

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = random_bytes(seed + 1000, 40);
    StreamDecoder decoder(trained());
    std::string out;
    for (int32_t id : trained().encode(text)) {
      const std::string piece = decoder.push(id);
      EXPECT_EQ(to_valid_utf8(piece), piece) << "emitted invalid UTF-8";
      out += piece;
    }
    out += decoder.finish();
    EXPECT_EQ(out, to_valid_utf8(text));
    EXPECT_EQ(decoder.finish(), "");
  }
}

TEST(StreamDecoder, FlushesTheReplacementCharacter) {
  const std::vector<int32_t> ids = trained().encode("\xf0\x9f\x98");
  StreamDecoder decoder(trained());
  std::string out;
  for (int32_t id : ids) out += decoder.push(id);
  EXPECT_EQ(out, "");
  EXPECT_EQ(decoder.finish(), "\xef\xbf\xbd");
}

// The table of Unicode 15, section 3.9: one U+FFFD for each maximal part of an ill-formed sequence.
TEST(Utf8, ReplacementFollowsUnicode) {
  const std::string fffd = "\xef\xbf\xbd";
  EXPECT_EQ(to_valid_utf8("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64"),
            "a" + fffd + fffd + fffd + "b" + fffd + "c" + fffd + fffd + "d");
  EXPECT_EQ(to_valid_utf8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41").size(), 8 * 3 + 1u);
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80\xed\xbf\xbf\x41").size(), 6 * 3 + 1u);
}

TEST(Text, ByteAlphabetIsGpt2s) {
  std::vector<bool> used(0x200, false);
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t c = byte_to_char(static_cast<uint8_t>(byte));
    EXPECT_FALSE(used[static_cast<size_t>(c)]);
    used[static_cast<size_t>(c)] = true;
    EXPECT_EQ(char_to_byte(c), std::optional<uint8_t>(static_cast<uint8_t>(byte)));
  }
  EXPECT_EQ(byte_to_char(' '), 0x120);
  EXPECT_EQ(byte_to_char('\n'), 0x10a);
  EXPECT_EQ(byte_to_char('a'), 'a');
  EXPECT_FALSE(char_to_byte(' ').has_value());
  EXPECT_FALSE(char_to_byte(0x1f600).has_value());
}

TEST(Text, NormalFormsKeepInvalidBytes) {
  EXPECT_EQ(normalize("e\u0301\xff"
                      "a\u030a",
                      NormalForm::kNfc),
            "\u00e9\xff\u00e5");
  EXPECT_EQ(normalize("\u00e9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(normalize("\ufb01", NormalForm::kNfkc), "fi");
}

/// The definition: the lowest rank anywhere, leftmost, one at a time.
std::vector<int32_t> reference_merge(const std::vector<BpeModel::Merge>& merges,
                                     std::vector<int32_t> symbols) {
  while (true) {
    const BpeModel::Merge* best = nullptr;
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (const BpeModel::Merge& merge : merges) {
        if (merge.left == symbols[i] && merge.right == symbols[i + 1] &&
            (best == nullptr || merge.rank < best->rank)) {
          best = &merge;
          best_at = i;
        }
      }
    }
    if (best == nullptr) return symbols;
    symbols[best_at] = best->result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeModel, MergesAsDefinedAtEveryLength) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Philox random(seed);
    std::vector<BpeModel::Merge> merges;
    for (int32_t k = 0; k < 12; ++k) {
      const auto pick = [&](uint64_t i) {
        return static_cast<int32_t>(
            random.below(static_cast<uint64_t>(k) * 2 + i, static_cast<uint64_t>(3 + k)));
      };
      const int32_t left = pick(0), right = pick(1);
      const bool known = std::any_of(merges.begin(), merges.end(), [&](const auto& merge) {
        return merge.left == left && merge.right == right;
      });
      // Some ranks are shared: leftmost decides there.
      if (!known) merges.push_back({left, right, seed % 2 == 0 ? k : k / 2, 3 + k});
    }
    const BpeModel model(merges);
    for (size_t length : {0, 1, 2, 3, 7, 47, 48, 49, 50, 97, 200}) {
      std::vector<int32_t> symbols;
      for (size_t i = 0; i < length; ++i) {
        symbols.push_back(static_cast<int32_t>(random.below(1000 + length * 256 + i, 3)));
      }
      const std::vector<int32_t> expected = reference_merge(merges, symbols);
      model.merge(symbols);
      ASSERT_EQ(symbols, expected) << "seed " << seed << " length " << length;
    }
  }
}

TEST(SplitPattern, PiecesCoverTheText) {
  const SplitPattern pattern(kGpt2Pattern, "test");
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const std::string text = random_bytes(seed, 60);
    std::string joined;
    SplitPattern::Pieces pieces(pattern, text);
    std::string_view piece;
    for (bool is_match = false; pieces.next(piece, is_match);) {
      EXPECT_FALSE(piece.empty());
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(SplitPattern, RefusesWhereEnginesDiffer) {
  for (const auto& [pattern, why] :
       std::vector<std::pair<std::string, std::string>>{{R"(\h+)", R"(\h)"},
                                                        {R"(^a)", "anchor ^"},
                                                        {R"([a&&b])", "intersection"},
                                                        {R"([[:alpha:]])", "nested"},
                                                        {R"(a{1,2}+)", "{n,m}+"},
                                                        {R"(a.)", "dot"},
                                                        {R"((?m:a))", "group (?m:"},
                                                        {R"((?i:\p{L}))", "a class under"},
                                                        {R"((?i:mass))", "'ss' under"},
                                                        {R"(\p{Han})", R"(\p{Han})"},
                                                        {R"([\s-z])", "a range from a class"},
                                                        {"(", "does not compile"}}) {
    expect_error(ErrorCode::kData, {"file: key", why}, [&] { SplitPattern(pattern, "file: key"); });
  }
}

TEST(HfJson, UnsupportedPartsAreRefusedByName) {
  const Node good = parse_json(trained_json(), "good");
  const auto refuse = [&](const std::vector<std::string>& why, auto&& change) {
    Node json = good;
    change(json);
    std::vector<std::string> fragments = why;
    fragments.push_back("bad.json");
    expect_error(ErrorCode::kData, fragments,
                 [&] { parse_hf_tokenizer(write_json(json), "bad.json"); });
  };
  const auto typed = [](const char* type) {
    Node node = Node::map();
    node.set("type", type);
    return node;
  };
  refuse({"model", "WordPiece"}, [](Node& j) { j.find("model")->set("type", "WordPiece"); });
  refuse({"normalizer", "BertNormalizer"},
         [&](Node& j) { j.set("normalizer", typed("BertNormalizer")); });
  refuse({"pre_tokenizer", "Punctuation"},
         [&](Node& j) { j.set("pre_tokenizer", typed("Punctuation")); });
  refuse({"pre_tokenizer.replacement", "missing"},
         [&](Node& j) { j.set("pre_tokenizer", typed("Metaspace")); });
  refuse({"decoder", "WordPiece"}, [&](Node& j) { j.set("decoder", typed("WordPiece")); });
  refuse({"post_processor", "BertProcessing"},
         [&](Node& j) { j.set("post_processor", typed("BertProcessing")); });
  refuse({"ByteLevel"}, [](Node& j) {
    j.set("pre_tokenizer", nullptr);
    Node steps = Node::list();
    Node decoder = Node::map(), bytes = Node::map();
    bytes.set("type", "ByteFallback");
    steps.push(bytes);
    decoder.set("type", "Sequence");
    decoder.set("decoders", steps);
    j.set("decoder", decoder);
  });
  refuse({"model.surprise", "unknown key"}, [](Node& j) { j.find("model")->set("surprise", 1); });
  refuse({"model.dropout"}, [](Node& j) { j.find("model")->set("dropout", 0.1); });
  refuse({"model.vocab", "out of range"},
         [](Node& j) { j.find("model")->find("vocab")->set("zzz", int64_t{2000000000}); });
  refuse({"stands for both"}, [](Node& j) { j.find("model")->find("vocab")->set("zzz", 5); });
  refuse({"no token for byte 0x41"}, [](Node& j) {
    auto& vocab = j.find("model")->find("vocab")->as_map();
    std::erase_if(vocab, [](const auto& entry) { return entry.first == "A"; });
    j.find("model")->set("merges", Node::list());
  });
  refuse({"model.merges", "'zz' is not in the vocabulary"},
         [](Node& j) { j.find("model")->find("merges")->push("zz q"); });
  refuse({"model.merges", "two words"},
         [](Node& j) { j.find("model")->find("merges")->push("a b c"); });
  expect_error(ErrorCode::kData, {"bad.json"}, [] { parse_hf_tokenizer("{", "bad.json"); });
}

TEST(HfJson, TokenizerConfigNamesTheEnds) {
  const TempDir dir;
  test::write_text(dir / "tokenizer.json", trained_json());
  test::write_text(dir / "tokenizer_config.json",
                   R"({"bos_token": {"content": "A"}, "eos_token": "B", "other": 1})");
  const auto tokenizer = load_tokenizer(dir.path());
  EXPECT_EQ(tokenizer->bos_id(), tokenizer->find_token("A"));
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->find_token("B"));
  expect_error(ErrorCode::kRequest, {"gone.json"}, [&] { load_tokenizer(dir / "gone.json"); });
  test::write_text(dir / "odd.txt", "hello");
  expect_error(ErrorCode::kData, {"odd.txt", "neither"}, [&] { load_tokenizer(dir / "odd.txt"); });
}

}  // namespace
}  // namespace ashlar

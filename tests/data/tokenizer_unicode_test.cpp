#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/base/threads.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/text_cuts.h"
#include "data/tokenizer/unicode.h"
#include "tests/data/families.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using namespace test_families;  // NOLINT

/// Texts in which pieces of every kind meet: letters with and without case, marks, numbers, white
/// space and line ends in runs, contractions, symbols, invalid bytes, added tokens.
std::string mixed_text(uint64_t seed, int atoms) {
  static const std::vector<std::string> kAtoms = {"the",
                                                  "Ab",
                                                  "x",
                                                  "'s",
                                                  "'LL",
                                                  "'\u017f",
                                                  "'re",
                                                  "'t",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\r\n",
                                                  "\t",
                                                  "\u00a0",
                                                  "\u3000",
                                                  "\u2028",
                                                  "12",
                                                  "3",
                                                  "4567",
                                                  "\u0664",
                                                  "\u00bd",
                                                  "\u2167",
                                                  "e\u0301",
                                                  "\u0301",
                                                  "\u01c5",
                                                  "\u4e2d\u6587",
                                                  "\u3002",
                                                  "\u3001",
                                                  "\u30ab\u3099",
                                                  "\ud55c",
                                                  "\u1112\u1161\u11ab",
                                                  ".",
                                                  "!?",
                                                  "/",
                                                  "__",
                                                  "\u2026",
                                                  "\U0001f600",
                                                  "\U0001f469\u200d\U0001f469",
                                                  "\u2581",
                                                  "\xff",
                                                  "\xe2\x82",
                                                  "<|im_start|>",
                                                  "<s>",
                                                  "</s>",
                                                  "<tool>",
                                                  "\U00011de0",
                                                  "\U00016ff5",
                                                  "\u088f",
                                                  "\U00010d40",
                                                  "k\u212a",
                                                  std::string(1, '\0')};
  const Philox random(seed);
  std::string text;
  for (int i = 0; i < atoms; ++i)
    text += kAtoms[random.below(static_cast<uint64_t>(i), kAtoms.size())];
  return text;
}

std::vector<std::string> pieces_of(const SplitPattern& pattern, std::string_view text) {
  std::vector<std::string> out;
  SplitPattern::Pieces pieces(pattern, text);
  std::string_view piece;
  for (bool is_match = false; pieces.next(piece, is_match);) {
    out.emplace_back(1, is_match ? '+' : '-');
    out.back() += piece;
  }
  return out;
}

std::vector<std::string> known_regexes() {
  const auto split = [](const char* name, size_t step) {
    return parse_hf_vocabulary(write_json(shape_of(name)), name).splits[step].regex;
  };
  return {kGpt2Pattern, split("llama3", 0),   split("qwen2", 0),    R"(\p{N})",
          R"(\p{N}+)",  digits_pattern(true), digits_pattern(false)};
}

TEST(KnownPatterns, DoWhatPcre2Does) {
  for (const std::string& regex : known_regexes()) {
    SCOPED_TRACE(regex);
    const SplitPattern known(regex, "known"), pcre2(regex, "pcre2", false);
    ASSERT_NE(known.known(), nullptr);
    ASSERT_EQ(pcre2.known(), nullptr);
    for (uint64_t seed = 0; seed < 4000; ++seed) {
      const std::string text = mixed_text(seed, 1 + static_cast<int>(seed % 24));
      ASSERT_EQ(pieces_of(known, text), pieces_of(pcre2, text)) << "seed " << seed;
    }
  }
}

TEST(KnownPatterns, AgreeOnEveryAssignedCharacter) {
  const CodePointSet unassigned = *general_category("Cn");
  const std::vector<std::string> regexes = known_regexes();
  for (const std::string& regex : {regexes[0], regexes[1], regexes[5]}) {
    SCOPED_TRACE(regex);
    const SplitPattern known(regex, "known"), pcre2(regex, "pcre2", false);
    std::string text;
    for (int32_t c = 0; c < kCodePoints; ++c) {
      if (c >= 0xd800 && c < 0xf900) continue;    // surrogates, private use
      if (c > 0x32000 && c % 101 != 0) continue;  // rarely assigned, alike
      if (unassigned.contains(c) && c % 7 != 0) continue;
      text += "a";
      append_utf8(text, c);
      text += "1";
      append_utf8(text, c);
      append_utf8(text, c);
      if (text.size() < 4096 && c + 1 < kCodePoints) continue;
      ASSERT_EQ(pieces_of(known, text), pieces_of(pcre2, text)) << "up to " << c;
      text.clear();
    }
  }
}

TEST(Unicode, CategoriesAreThoseOfVersion16) {
  const auto is = [](const char* name, int32_t c) { return general_category(name)->contains(c); };
  EXPECT_TRUE(is("Lu", 'A') && is("L", 'A') && !is("Ll", 'A'));
  EXPECT_TRUE(is("Nd", 0x10d40));  // Garay digit zero, 16.0
  EXPECT_TRUE(is("Lo", 0x105c0));  // Todhri letter, 16.0
  EXPECT_TRUE(is("Cn", 0x088f));   // a letter in 17.0
  EXPECT_TRUE(is("Cn", 0x10ffff) && is("Cs", 0xd800) && is("Co", 0xe000));
  EXPECT_FALSE(general_category("Han").has_value());
  // Digits asks a later version.
  const SplitPattern digits(digits_pattern(true), "digits"), numbers(R"(\p{N})", "numbers");
  EXPECT_EQ(pieces_of(digits, "a\U00011de0"), (std::vector<std::string>{"-a", "+\U00011de0"}));
  EXPECT_EQ(pieces_of(numbers, "a\U00011de0"), (std::vector<std::string>{"-a\U00011de0"}));
}

TEST(Unicode, SetsAreRangesThatDoNotTouch) {
  CodePointSet set({{5, 7}, {1, 2}, {3, 3}, {6, 9}});
  EXPECT_EQ(set.ranges(), (std::vector<CodePointSet::Range>{{1, 3}, {5, 9}}));
  EXPECT_EQ(set.complement().complement().ranges(), set.ranges());
  EXPECT_TRUE(set.contains(9) && set.contains(1) && !set.contains(4) && !set.contains(10));
  EXPECT_EQ(CodePointSet().complement().ranges(),
            (std::vector<CodePointSet::Range>{{0, kCodePoints - 1}}));
}

TEST(Text, NormalFormsAreThoseOfUnicode9) {
  // Assigned in 13.0: the pair composes since then, and not for the reference.
  const std::string dives = "\U00011935\U00011930";
  EXPECT_EQ(normalize(dives, NormalForm::kNfc), dives);
  // U+32FF came with 12.1: it has no compatibility decomposition yet.
  EXPECT_EQ(normalize("\u32ff", NormalForm::kNfkc), "\u32ff");
  // U+0898, a mark of 14.0, is no mark: what follows it stays behind it.
  EXPECT_EQ(normalize("a\u0898\u0323\u0307", NormalForm::kNfc), "a\u0898\u0323\u0307");
  EXPECT_EQ(normalize("a\u0307\u0323b", NormalForm::kNfc),
            "\u1ea1\u0307"
            "b");
  EXPECT_EQ(normalize("x\u1112\u1161\u11aby", NormalForm::kNfc), "x\ud55cy");
  EXPECT_EQ(normalize("\u1112\uff0c\ufb01", NormalForm::kNfkc), "\u1112,fi");
}

/// Any normal form of a text, and of its parts where the flags say that it falls apart.
TEST(Text, SafeCharactersBeginParts) {
  for (NormalForm form :
       {NormalForm::kNfc, NormalForm::kNfd, NormalForm::kNfkc, NormalForm::kNfkd}) {
    for (uint64_t seed = 0; seed < 500; ++seed) {
      const std::string text = mixed_text(seed, 12);
      EXPECT_EQ(normalize(text + " " + text, form),
                normalize(text, form) + " " + normalize(text, form));
    }
  }
}

TEST(EncodeParallel, GivesTheIdsOfOneThread) {
  ThreadPool pool(3);
  for (const std::string name : {"llama3", "qwen2", "smollm", "tekken", "gpt-2", "mpt", "llama2",
                                 "mistral3", "metaspace_always", "metaspace_never"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = parse_hf_tokenizer(write_json(shape_of(name)), name);
    for (uint64_t seed = 0; seed < 150; ++seed) {
      const std::string text = mixed_text(seed, 60);
      for (const bool special : {false, true}) {
        const EncodeOptions options{.add_special = special, .parse_special = special};
        const std::vector<int32_t> ids = tokenizer->encode(text, options);
        for (int64_t bytes : {1, 5, 31, 100000}) {
          ASSERT_EQ(tokenizer->encode_parallel(text, pool, options, bytes), ids) << "seed " << seed;
        }
      }
    }
  }
}

/// Where the vocabularies may be cut at all: the test above is empty for one that has no cuts.
TEST(EncodeParallel, CutsBehindWords) {
  const auto first_cut = [](const std::string& name, const std::string& text, const Node& added) {
    Node shape = shape_of(name);
    if (added.is_map()) shape.find("added_tokens")->push(added);
    const BpeTokenizer tokenizer(parse_hf_vocabulary(write_json(shape), name), name);
    return tokenizer.cuts().next(text, 1);
  };
  const std::string text = "1 2 ends here";  // not behind a number
  for (const std::string name : {"llama3", "qwen2", "smollm", "gpt-2", "mpt", "llama2"}) {
    EXPECT_EQ(first_cut(name, text, nullptr), 8u) << name;
  }
  EXPECT_EQ(first_cut("tekken", text, nullptr), text.size());  // no matcher for its pattern
  EXPECT_EQ(first_cut("gpt-2", "1\u4e2d\u3002x", nullptr), 4u);
  EXPECT_EQ(first_cut("llama2", "1x\ny", nullptr), 4u);  // a line end begins no word there
  Node token = Node::map();
  token.set("id", 5000);
  token.set("content", "two words");
  EXPECT_EQ(first_cut("gpt-2", text, token), text.size());
  token.set("content", "word");
  token.set("rstrip", true);
  EXPECT_EQ(first_cut("gpt-2", text, token), text.size());
}

TEST(Tokenizer, BytesWithoutATokenAreRefusedOrLeftOut) {
  Node shape = shape_of("gpt-2");
  Node::Map vocab;
  for (const auto& [spelling, id] : shape.find("model")->find("vocab")->as_map()) {
    if (spelling != "\u0101") vocab.emplace_back(spelling, id);  // byte 0x01
  }
  shape.find("model")->set("vocab", Node(std::move(vocab)));
  const auto tokenizer = parse_hf_tokenizer(write_json(shape), "x");
  const std::string text =
      "a\x01"
      "b";
  for (int i = 0; i < 2; ++i) {  // what is remembered of one must not answer the other
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, {.lossy = true})), "ab");
    test::expect_error(ErrorCode::kData, {"no token for byte 0x01"},
                       [&] { tokenizer->encode(text); });
  }
}

}  // namespace
}  // namespace ashlar

#include "data/tokenizer/llama2c.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/base/rng.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/text.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;

struct Entry {
  float score;
  std::string bytes;
};

std::string file_of(const std::vector<Entry>& entries, int32_t longest = 16) {
  std::string out;
  const auto put = [&](const void* value, size_t size) {
    out.append(static_cast<const char*>(value), size);
  };
  put(&longest, 4);
  for (const Entry& entry : entries) {
    const auto length = static_cast<int32_t>(entry.bytes.size());
    put(&entry.score, 4);
    put(&length, 4);
    out += entry.bytes;
  }
  return out;
}

std::vector<Entry> vocabulary(const std::vector<Entry>& pieces) {
  std::vector<Entry> out{{0, "<unk>"}, {0, "\n<s>\n"}, {0, "\n</s>\n"}};
  for (int byte = 0; byte < 256; ++byte) out.push_back({0, fmt::format("<0x{:02X}>", byte)});
  out.insert(out.end(), pieces.begin(), pieces.end());
  return out;
}

/// The algorithm of llama2.c's encode(), word for word: join the best-scored adjacent pair, the
/// first of equals, until none is a token.
std::vector<int32_t> reference_encode(const std::vector<Entry>& vocab, const std::string& text) {
  const auto look_up = [&](const std::string& piece) {
    for (size_t id = 0; id < vocab.size(); ++id) {
      if (vocab[id].bytes == piece) return static_cast<int32_t>(id);
    }
    return -1;
  };
  std::vector<int32_t> tokens;
  if (!text.empty()) tokens.push_back(look_up(" "));
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    while (end < text.size() && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) ++end;
    const int32_t id = look_up(text.substr(at, end - at));
    if (id >= 0) {
      tokens.push_back(id);
    } else {
      for (size_t i = at; i < end; ++i) tokens.push_back(static_cast<uint8_t>(text[i]) + 3);
    }
    at = end;
  }
  while (true) {
    float best_score = -1e10F;
    int32_t best_id = -1;
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const int32_t id = look_up(vocab[static_cast<size_t>(tokens[i])].bytes +
                                 vocab[static_cast<size_t>(tokens[i + 1])].bytes);
      if (id != -1 && vocab[static_cast<size_t>(id)].score > best_score) {
        best_score = vocab[static_cast<size_t>(id)].score;
        best_id = id;
        best_at = i;
      }
    }
    if (best_id == -1) return tokens;
    tokens[best_at] = best_id;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

/// Random texts of the vocabulary's own characters and some others.
std::string random_text(const Philox& random, uint64_t index,
                        const std::vector<std::string>& atoms) {
  std::string text;
  const uint64_t length = random.below(index * 512, 120);
  for (uint64_t i = 0; i < length; ++i) {
    text += atoms[random.below(index * 512 + 1 + i, atoms.size())];
  }
  return text;
}

void expect_all_agree(const std::vector<Entry>& vocab, const std::vector<std::string>& atoms,
                      uint64_t seed, uint64_t trials) {
  const auto direct = parse_llama2c_tokenizer(file_of(vocab), "fuzz.bin");
  const auto through_json = parse_hf_tokenizer(direct->json(), "fuzz.json");
  EXPECT_EQ(direct->hash(), through_json->hash());
  const Philox random(seed);
  for (uint64_t i = 0; i < trials; ++i) {
    const std::string text = random_text(random, i, atoms);
    const std::vector<int32_t> expected = reference_encode(vocab, text);
    ASSERT_EQ(direct->encode(text), expected) << text;
    ASSERT_EQ(through_json->encode(text), expected) << text;
    ASSERT_EQ(direct->decode(expected), text);
    ASSERT_EQ(through_json->decode(expected), text);
  }
}

std::vector<Entry> read_tok512(const std::string& raw) {
  std::vector<Entry> entries;
  for (size_t at = 4; at < raw.size();) {
    Entry entry;
    int32_t length = 0;
    std::memcpy(&entry.score, raw.data() + at, 4);
    std::memcpy(&length, raw.data() + at + 4, 4);
    entry.bytes = raw.substr(at + 8, static_cast<size_t>(length));
    at += 8 + static_cast<size_t>(length);
    entries.push_back(entry);
  }
  return entries;
}

TEST(Llama2c, Stories260KVocabulary) {
  const auto path = test::shared_data("tok512.bin");
  if (path.empty()) GTEST_SKIP() << "needs shared data: tok512.bin";
  const auto tokenizer = load_tokenizer(path);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  EXPECT_EQ(tokenizer->bos_id(), std::optional<int32_t>(1));
  EXPECT_EQ(tokenizer->eos_id(), std::optional<int32_t>(2));
  const std::vector<int32_t> ids{1, 403, 407, 261, 378};
  EXPECT_EQ(tokenizer->encode("Once upon a time", {.add_special = true}), ids);
  EXPECT_EQ(tokenizer->decode(ids), "Once upon a time");
  EXPECT_TRUE(tokenizer->encode("").empty());

  const std::vector<Entry> vocab = read_tok512(test::read_text(path));
  std::vector<std::string> atoms{"é", "😀", "\n", "▁", "日"};
  for (size_t id = 259; id < vocab.size(); ++id) atoms.push_back(vocab[id].bytes);
  expect_all_agree(vocab, atoms, 1, 400);
}

TEST(Llama2c, SmallVocabulariesWithManySplits) {
  // "aba" and "bab" overlap themselves, "abab" has two splits, "c" only exists as a byte.
  const std::vector<Entry> vocab = vocabulary({{-1, "ab"},
                                               {-2, "ba"},
                                               {-3, "aba"},
                                               {-4, "abab"},
                                               {-5, " a"},
                                               {-20, "a"},
                                               {-21, "b"},
                                               {-22, " "}});
  expect_all_agree(vocab, {"a", "b", "c", " "}, 2, 2000);
}

TEST(Llama2c, RunsOfOneCharacter) {
  const std::vector<Entry> vocab =
      vocabulary({{-1, "aa"}, {-2, "aaaa"}, {-3, "aaa"}, {-20, "a"}, {-21, "b"}, {-22, " "}});
  const auto direct = parse_llama2c_tokenizer(file_of(vocab), "runs.bin");
  for (size_t n = 0; n < 40; ++n) {
    const std::string text(n, 'a');
    EXPECT_EQ(direct->encode(text), reference_encode(vocab, text)) << n;
  }
}

TEST(Llama2c, BadFilesAreRefused) {
  const auto refuse = [](const std::vector<std::string>& why, const std::string& raw) {
    expect_error(ErrorCode::kData, why, [&] { parse_llama2c_tokenizer(raw, "bad.bin"); });
  };
  const std::string good = file_of(vocabulary({{-1, "a"}, {-2, " "}}));
  parse_llama2c_tokenizer(good, "good.bin");
  refuse({"bad.bin", "truncated"}, "");
  refuse({"bad.bin", "truncated at token 260"}, good.substr(0, good.size() - 1));
  refuse({"bad.bin", "longest piece"}, file_of(vocabulary({{-1, "a"}}), -4));
  refuse({"bad.bin", "tokens, expected more than 259"}, file_of({{0, "<unk>"}}));
  refuse({"bad.bin", "token 260: 'a' twice"}, file_of(vocabulary({{-1, "a"}, {-2, "a"}})));
  refuse({"bad.bin", "token 259: score"}, file_of(vocabulary({{NAN, "a"}})));
  std::vector<Entry> swapped = vocabulary({{-1, "a"}});
  std::swap(swapped[3], swapped[4]);
  refuse({"bad.bin", "token 3: expected <0x00>"}, file_of(swapped));
  std::string longer = good;
  const int32_t absurd = 0x7fffffff;
  std::memcpy(longer.data() + 8, &absurd, 4);
  refuse({"bad.bin", "token 0: length 2147483647"}, longer);
}

}  // namespace
}  // namespace ashlar

#pragma once

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/io/json.h"
#include "core/io/sha256.h"
#include "data/shards/prepare.h"
#include "data/tokenizer/train_bpe.h"
#include "tests/support/files.h"

namespace ashlar::test {

inline std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(compressBound(text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

/// `words` words of the licence in an order drawn from (seed, document).
inline std::string random_words(uint64_t seed, uint64_t document, uint64_t words) {
  static const std::vector<std::string> vocabulary = [] {
    std::vector<std::string> found = {""};
    for (const char c : read_text("LICENSE")) {
      if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
        found.back() += c;
      } else if (!found.back().empty()) {
        found.emplace_back();
      }
    }
    found.pop_back();
    return found;
  }();
  const Philox random(seed, document);
  std::string text;
  for (uint64_t i = 0; i < words; ++i) {
    text += vocabulary[random.below(i, vocabulary.size())] + (i % 17 == 16 ? ".\n" : " ");
  }
  return text;
}

inline std::string json_line(const std::string& text, const std::string& key = "text") {
  return write_json(Node::Map{{"id", 7}, {key, text}}) + "\n";
}

/// A vocabulary of 300 tokens trained on the licence.
inline void write_vocabulary(const std::filesystem::path& path) {
  BpeTrainOptions options;
  options.vocab_size = 300;
  BpeTrainer trainer(options);
  trainer.add(std::vector<std::string>{read_text("LICENSE")});
  write_text(path, trainer.train());
}

/// Files of every kind below `folder`, with empty documents and duplicates among them.
inline void write_corpus(const std::filesystem::path& folder, uint64_t documents) {
  std::filesystem::create_directories(folder / "sub");
  const auto lines = [&](uint64_t file) {
    std::string out;
    for (uint64_t d = 0; d < documents; ++d) {
      const uint64_t same = d % 10 == 9 ? d - 5 : d;  // every tenth was there already
      out += json_line(d % 13 == 12 ? "" : random_words(file, same, 20 + same % 90));
      if (d % 7 == 3) out += "\n";
    }
    return out;
  };
  write_text(folder / "a.jsonl", lines(1));
  write_text(folder / "b.jsonl.gz", gzip(lines(2)));
  write_text(folder / "c.jsonl.zst", zstd(lines(3)));
  write_text(folder / "d.txt", random_words(4, 0, 30 * documents));
  write_text(folder / "e.txt", "");
  write_text(folder / "f.txt.gz", gzip(random_words(5, 0, 10 * documents) + "\xff\xfe\x80"));
  write_text(folder / "ignored.csv", "x");
  write_text(folder / "sub" / "g.jsonl", lines(1));  // a whole file of duplicates
}

/// SHA-256 of every file below a folder, by relative path.
inline std::map<std::string, std::string> digests(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    out[std::filesystem::relative(entry.path(), folder).string()] = sha256_file(entry.path());
  }
  return out;
}

}  // namespace ashlar::test

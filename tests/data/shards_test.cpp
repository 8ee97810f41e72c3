#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <set>

#include "core/base/rng.h"
#include "core/hdf5/hdf5.h"
#include "core/io/json.h"
#include "data/shards/batch_source.h"
#include "data/shards/prepare.h"
#include "data/shards/shard_set.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/train_bpe.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

/// A corpus of many small documents and its vocabulary, made once.
struct Corpus {
  TempDir dir;
  std::vector<std::string> documents;
  fs::path input, tokenizer;

  Corpus() : input(dir / "corpus.jsonl"), tokenizer(dir / "tokenizer.json") {
    const std::string license = test::read_text("LICENSE");
    std::string lines;
    for (size_t i = 0; i < 60; ++i) {
      documents.push_back(i % 13 == 5 ? "" : license.substr(i * 150, 100 + i * 3));
      Node row = Node::map();
      row.set("text", documents.back());
      lines += write_json(row) + "\n";
    }
    test::write_text(input, lines);
    BpeTrainOptions options;
    options.vocab_size = 300;
    BpeTrainer trainer(options);
    trainer.add(documents);
    test::write_text(tokenizer, trainer.train());
  }
  PrepareOptions options(const std::string& name) const {
    PrepareOptions out;
    out.inputs = {input};
    out.tokenizer = tokenizer;
    out.output = dir / name;
    return out;
  }
};

const Corpus& corpus() {
  static const Corpus value;
  return value;
}

std::vector<int32_t> expected_stream() {
  const auto tokenizer = load_tokenizer(corpus().tokenizer);
  std::vector<int32_t> stream;
  for (const std::string& document : corpus().documents) {
    if (document.empty()) continue;
    const std::vector<int32_t> ids = tokenizer->encode(document);
    stream.insert(stream.end(), ids.begin(), ids.end());
    stream.push_back(0);
  }
  return stream;
}

std::vector<int32_t> read_stream(const ShardSet& shards) {
  std::vector<int32_t> stream(static_cast<size_t>(shards.total_tokens()));
  shards.read(0, stream);
  return stream;
}

TEST(Prepare, ShardsHoldTheTokensInOrder) {
  const std::vector<int32_t> expected = expected_stream();
  int64_t bytes = 0;
  for (const std::string& document : corpus().documents)
    bytes += static_cast<int64_t>(document.size());
  std::string single_shard;
  for (const auto& [threads, shard_tokens, dtype] : {std::tuple{1, int64_t{1} << 28, "auto"},
                                                     {2, int64_t{1} << 28, "uint16"},
                                                     {5, int64_t{700}, "uint32"}}) {
    PrepareOptions options = corpus().options(fmt::format("out{}", threads));
    options.threads = threads;
    options.shard_tokens = shard_tokens;
    options.dtype = dtype;
    const PrepareResult result = prepare(options);
    EXPECT_EQ(result.statistics.total.empty, 5);
    const ShardSet shards(options.output);
    EXPECT_EQ(read_stream(shards), expected);
    EXPECT_EQ(shards.source_bytes(), std::optional<int64_t>(bytes));
    EXPECT_EQ(shards.documents(), std::optional<int64_t>(55));
    EXPECT_EQ(shards.eos_id(), std::optional<int32_t>(0));
    EXPECT_EQ(shards.vocab_size(), std::optional<int64_t>(300));
    EXPECT_EQ(shards.vocabulary_sha256(), load_tokenizer(options.output)->hash());
    EXPECT_EQ(test::read_text(options.output / "tokenizer.json"),
              test::read_text(corpus().tokenizer));
    const Node params = load_json(options.output / "data_params.json");
    EXPECT_EQ(params.find("tokens")->as_int(), static_cast<int64_t>(expected.size()));
    if (threads == 5) {
      EXPECT_GT(result.parts[0].shards.size(), 3u);
      const H5File file = H5File::open(options.output / "data-00001.h5");
      const std::vector<int64_t> offsets = file.read<int64_t>("document_offsets");
      const std::vector<uint32_t> data = file.read<uint32_t>("data");
      EXPECT_EQ(static_cast<int64_t>(offsets.size()), result.parts[0].shards[1].documents);
      for (size_t i = 1; i < offsets.size(); ++i)
        EXPECT_EQ(data[static_cast<size_t>(offsets[i]) - 1], 0u);
    } else {
      // The same bytes whatever the number of threads.
      const std::string raw = test::read_text(options.output / "data-00000.h5");
      if (threads == 1) single_shard = raw;
      EXPECT_EQ(raw, single_shard);
    }
    for (const auto& entry : fs::directory_iterator(options.output)) {
      EXPECT_NE(entry.path().extension(), ".tmp");
    }
  }
}

TEST(Prepare, SplitsByDocument) {
  PrepareOptions options = corpus().options("split");
  options.validation_share = 0.3;
  options.seed = 7;
  const PrepareResult result = prepare(options);
  ASSERT_EQ(result.parts.size(), 2u);
  EXPECT_EQ(result.parts[0].total.documents + result.parts[1].total.documents, 55);
  EXPECT_GT(result.parts[1].total.documents, 5);
  EXPECT_LT(result.parts[1].total.documents, 30);
  const ShardSet train(options.output / "train"), validation(options.output / "validation");
  // Together they are the stream's documents, each whole and in one of the two.
  const auto documents_of = [](const std::vector<int32_t>& stream) {
    std::multiset<std::vector<int32_t>> documents;
    std::vector<int32_t> current;
    for (int32_t id : stream) {
      if (id != 0) {
        current.push_back(id);
      } else {
        documents.insert(std::exchange(current, {}));
      }
    }
    return documents;
  };
  auto parts = documents_of(read_stream(train));
  parts.merge(documents_of(read_stream(validation)));
  EXPECT_EQ(parts, documents_of(expected_stream()));
}

TEST(Prepare, RefusalsLeaveNothingBehind) {
  const auto refuse = [&](ErrorCode code, const std::vector<std::string>& why, auto&& change) {
    const TempDir place;
    PrepareOptions options = corpus().options("x");
    options.output = place / "out";
    change(options, place);
    const auto count = [&] {
      return std::distance(fs::directory_iterator(place.path()), fs::directory_iterator());
    };
    const auto before = count();
    expect_error(code, why, [&] { prepare(options); });
    EXPECT_EQ(count(), before);
  };
  refuse(ErrorCode::kRequest, {"out", "exists already"},
         [](auto& options, const TempDir&) { fs::create_directory(options.output); });
  refuse(ErrorCode::kRequest, {"validation share 1"},
         [](auto& options, const TempDir&) { options.validation_share = 1; });
  refuse(ErrorCode::kRequest, {"no document fell into validation"},
         [](auto& options, const TempDir&) { options.validation_share = 1e-9; });
  refuse(ErrorCode::kRequest, {"dtype 'int8'"},
         [](auto& options, const TempDir&) { options.dtype = "int8"; });
  refuse(ErrorCode::kRequest, {"the input holds no text"}, [](auto& options, const TempDir& place) {
    test::write_text(place / "empty.txt", "");
    options.inputs = {place / "empty.txt"};
  });
  refuse(ErrorCode::kData, {"bad.jsonl:2"}, [](auto& options, const TempDir& place) {
    test::write_text(place / "bad.jsonl", "{\"text\": \"fine\"}\nbroken\n");
    options.inputs = {corpus().input, place / "bad.jsonl"};
  });
  refuse(ErrorCode::kRequest, {"gone.json", "cannot open"},
         [](auto& options, const TempDir& place) { options.tokenizer = place / "gone.json"; });
  refuse(ErrorCode::kRequest, {"tokenizer.json", "does not fit uint16"},
         [](auto& options, const TempDir& place) {
           Node json = load_json(corpus().tokenizer);
           for (int64_t id = 300; id < 65600; ++id) {
             json.find("model")->find("vocab")->as_map().emplace_back(fmt::format("t{}", id), id);
           }
           test::write_text(place / "tokenizer.json", write_json(json));
           options.tokenizer = place / "tokenizer.json";
           options.dtype = "uint16";
         });
}

void write_shard(const fs::path& path, const std::vector<uint16_t>& tokens, int64_t eos = 0) {
  H5File file = H5File::create(path);
  file.write<uint16_t>("data", {static_cast<int64_t>(tokens.size())}, tokens);
  file.set_attribute("", "eos_id", eos);
  file.close();
}

TEST(ShardSet, ReadsAcrossShardsAndRefusesMixtures) {
  const TempDir dir;
  expect_error(ErrorCode::kRequest, {"no such folder"}, [&] { ShardSet s(dir / "gone"); });
  expect_error(ErrorCode::kRequest, {"no *.h5"}, [&] { ShardSet s(dir.path()); });
  write_shard(dir / "b.h5", {4, 5});
  write_shard(dir / "a.h5", {1, 2, 3});
  write_shard(dir / "c.h5", {6});
  {
    const ShardSet shards(dir.path());
    EXPECT_EQ(read_stream(shards), (std::vector<int32_t>{1, 2, 3, 4, 5, 6}));
    std::vector<int32_t> middle(3);
    shards.read(2, middle);
    EXPECT_EQ(middle, (std::vector<int32_t>{3, 4, 5}));
    EXPECT_EQ(shards.token(5), 6);
    EXPECT_FALSE(shards.source_bytes().has_value());
  }
  write_shard(dir / "c.h5", {6}, 9);
  expect_error(ErrorCode::kData, {"c.h5", "eos_id differs"}, [&] { ShardSet s(dir.path()); });
  test::write_text(dir / "c.h5", "garbage");
  expect_error(ErrorCode::kData, {"c.h5", "not an HDF5 file"}, [&] { ShardSet s(dir.path()); });
  H5File file = H5File::create(dir / "c.h5");
  file.write<float>("data", {1}, std::vector<float>{1});
  file.close();
  expect_error(ErrorCode::kData, {"c.h5", "expected integers"}, [&] { ShardSet s(dir.path()); });
}

TEST(ShardSet, RefusesTokensOutsideTheVocabulary) {
  const TempDir dir;
  H5File file = H5File::create(dir / "a.h5");
  file.write<uint16_t>("data", {3}, std::vector<uint16_t>{1, 50, 2});
  file.set_attribute("", "vocab_size", int64_t{50});
  file.close();
  const ShardSet shards(dir.path());
  EXPECT_EQ(shards.token(0), 1);
  expect_error(ErrorCode::kData, {"a.h5", "token 50"}, [&] { shards.token(1); });
}

TEST(Permutation, IsOneForEverySize) {
  for (uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097}) {
    for (uint64_t round : {0, 1, 5}) {
      const Permutation permutation(size, 42);
      std::vector<uint64_t> seen;
      for (uint64_t i = 0; i < size; ++i) seen.push_back(permutation(round, i));
      if (size >= 1000) {
        EXPECT_FALSE(std::is_sorted(seen.begin(), seen.end()));
        EXPECT_NE(permutation(round + 1, 0) == seen[0] && permutation(round + 1, 1) == seen[1],
                  true);
      }
      std::sort(seen.begin(), seen.end());
      for (uint64_t i = 0; i < size; ++i) ASSERT_EQ(seen[i], i) << "size " << size;
    }
  }
}

// Each index should land in each place about equally often over epochs: chi-squared of a 16 × 16
// table over 8192 epochs. With 225 degrees of freedom the 1e-6 quantile is about 337.
TEST(Permutation, SpreadsOverEpochs) {
  constexpr uint64_t kSize = 16, kEpochs = 8192;
  const Permutation permutation(kSize, 3);
  std::vector<double> table(kSize * kSize, 0);
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    for (uint64_t i = 0; i < kSize; ++i) table[i * kSize + permutation(epoch, i)] += 1;
  }
  double chi = 0;
  const double mean = static_cast<double>(kEpochs) / kSize;
  for (double count : table) chi += (count - mean) * (count - mean) / mean;
  EXPECT_LT(chi, 337) << "statistical: seed 3, n 8192";
}

std::vector<uint16_t> numbered(size_t n) {
  std::vector<uint16_t> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<uint16_t>(i % 11 == 10 ? 0 : i + 1);
  return tokens;
}

TEST(BatchSource, SequentialScoresEveryTokenOnce) {
  const TempDir dir;
  for (size_t n : {1, 6, 7, 8, 50}) {
    const std::vector<uint16_t> tokens = numbered(n);
    write_shard(dir / "a.h5", tokens);
    const ShardSet shards(dir.path());
    const BatchSource source(shards, 7, 0, BatchSource::Order::kSequential);
    const Batch batch = source.batch(0, source.windows());
    std::vector<uint16_t> scored;
    for (size_t i = 0; i < batch.targets.size(); ++i) {
      if (batch.loss_weight[i] == 0) continue;
      const auto target = static_cast<uint16_t>(batch.targets[i]);
      EXPECT_EQ(batch.tokens[i], scored.empty() ? 0 : scored.back());
      scored.push_back(target);
    }
    EXPECT_EQ(scored, tokens);
  }
}

TEST(PaddedDocuments, EveryDocumentIsWholeAndBeginsAtABlock) {
  const TempDir dir;
  write_shard(dir / "a.h5", {5, 6, 7, 0, 8, 0, 9, 9, 9, 9, 0});
  write_shard(dir / "b.h5", {4, 4, 0, 3});  // the last document has no end
  const ShardSet shards(dir.path());
  EXPECT_EQ(shards.document_starts(), (std::vector<int64_t>{0, 4, 6, 11, 14}));
  const std::vector<int32_t> stream = read_stream(shards);
  const auto starts = shards.document_starts();
  std::set<int64_t> pads_seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (const bool start_block : {false, true}) {
      const PaddedDocuments padded(shards, {4, start_block}, seed);
      ASSERT_EQ(padded.documents(), 5);
      const auto n = static_cast<size_t>(padded.total_tokens());
      ASSERT_EQ(n % 4, 0u);
      std::vector<int32_t> tokens(n);
      std::vector<float> weights(n);
      std::vector<int64_t> documents(n);
      padded.read(0, tokens, weights, documents);
      for (int64_t d = 0; d < 5; ++d) {
        EXPECT_EQ(padded.start(d) % 4, 0);
        const auto begin = static_cast<size_t>(padded.start(d));
        const auto end = static_cast<size_t>(padded.start(d + 1));
        std::vector<int32_t> text;
        size_t front = 0;
        for (size_t i = begin; i < end; ++i) {
          EXPECT_EQ(documents[i], d);
          if (weights[i] > 0) {
            if (text.empty()) front = i - begin;
            text.push_back(tokens[i]);
          } else {
            EXPECT_EQ(tokens[i], 0);
          }
        }
        const auto first = static_cast<size_t>(starts[static_cast<size_t>(d)]);
        const size_t last =
            d == 4 ? stream.size() : static_cast<size_t>(starts[static_cast<size_t>(d + 1)]);
        EXPECT_EQ(text, std::vector<int32_t>(stream.begin() + static_cast<std::ptrdiff_t>(first),
                                             stream.begin() + static_cast<std::ptrdiff_t>(last)));
        EXPECT_GE(front, start_block ? 4u : 0u);
        EXPECT_LT(front, start_block ? 8u : 4u);
        pads_seen.insert(static_cast<int64_t>(front));
      }
      // Any piece equals the whole.
      for (size_t at = 0; at + 7 <= n; at += 3) {
        std::vector<int32_t> piece(7);
        std::vector<float> weight(7);
        std::vector<int64_t> document(7);
        padded.read(static_cast<int64_t>(at), piece, weight, document);
        EXPECT_TRUE(std::equal(piece.begin(), piece.end(),
                               tokens.begin() + static_cast<std::ptrdiff_t>(at)));
        EXPECT_TRUE(std::equal(weight.begin(), weight.end(),
                               weights.begin() + static_cast<std::ptrdiff_t>(at)));
        EXPECT_TRUE(std::equal(document.begin(), document.end(),
                               documents.begin() + static_cast<std::ptrdiff_t>(at)));
      }
    }
  }
  EXPECT_EQ(pads_seen.size(), 8u);
}

TEST(BatchSource, PaddedWindowsBeginAtBlocks) {
  const TempDir dir;
  write_shard(dir / "a.h5", numbered(90));
  const ShardSet shards(dir.path());
  const PaddedDocuments padded(shards, {4, true}, 3);
  const BatchSource source(shards, 8, 3, BatchSource::Order::kShuffled, {4, true});
  const auto n = static_cast<size_t>(padded.total_tokens());
  std::vector<int32_t> tokens(n);
  std::vector<float> weights(n);
  std::vector<int64_t> documents(n);
  padded.read(0, tokens, weights, documents);
  ASSERT_EQ(source.windows(), (static_cast<int64_t>(n) - 1) / 8);
  std::set<size_t> seen;
  for (int64_t i = 0; i < source.windows(); ++i) {
    const Batch row = source.batch(i, 1);
    size_t at = n;
    for (size_t w = 0; w + 8 < n; w += 8) {
      const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(w);
      const bool same = std::equal(row.tokens.begin(), row.tokens.end(), from) &&
                        row.targets.back() == tokens[w + 8];
      if (same && !seen.contains(w)) at = w;
    }
    ASSERT_LT(at, n);
    seen.insert(at);
    for (size_t t = 0; t < 8; ++t) {
      EXPECT_EQ(row.targets[t], tokens[at + t + 1]);
      EXPECT_EQ(row.loss_weight[t], weights[at + t + 1]);
      EXPECT_EQ(row.segment_ids[t], static_cast<int32_t>(documents[at + t] - documents[at]));
      if (t > 0 && row.segment_ids[t] != row.segment_ids[t - 1]) {
        EXPECT_EQ(t % 4, 0u);
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), source.windows());
}

TEST(ShardSet, DocumentOffsetsAreReadAndChecked) {
  const auto with_offsets = [](const TempDir& dir, const std::vector<int64_t>& offsets) {
    H5File file = H5File::create(dir / "a.h5");
    file.write<uint16_t>("data", {6}, std::vector<uint16_t>{1, 0, 2, 3, 0, 4});
    file.write<int64_t>("document_offsets", {static_cast<int64_t>(offsets.size())}, offsets);
    file.set_attribute("", "eos_id", int64_t{0});
    file.close();
  };
  const TempDir good;
  with_offsets(good, {0, 2, 5});
  EXPECT_EQ(ShardSet(good.path()).document_starts(), (std::vector<int64_t>{0, 2, 5}));
  for (const auto& bad : std::vector<std::vector<int64_t>>{{0, 3, 2}, {0, 9}, {-1, 2}, {0, 0, 2}}) {
    const TempDir dir;
    with_offsets(dir, bad);
    test::expect_error(ErrorCode::kData, {"a.h5", "document_offsets"},
                       [&] { ShardSet(dir.path()).document_starts(); });
  }
}

TEST(BatchSource, ShuffledVisitsEveryWindowOncePerEpoch) {
  const TempDir dir;
  write_shard(dir / "a.h5", numbered(60));
  write_shard(dir / "b.h5", numbered(47));
  const ShardSet shards(dir.path());
  const std::vector<int32_t> stream = read_stream(shards);
  const BatchSource source(shards, 5, 11);
  ASSERT_EQ(source.windows(), 21);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::set<std::vector<int32_t>> seen;
    for (int64_t i = 0; i < 21; ++i) {
      const Batch row = source.batch(epoch * 21 + i, 1);
      EXPECT_EQ(row.cursor, epoch * 21 + i);
      seen.insert(row.targets);
      if (i == 0) orders.push_back(row.targets);
      int32_t segment = 0;
      for (size_t t = 0; t < 5; ++t) {
        EXPECT_EQ(row.positions[t], static_cast<int32_t>(t));
        segment += t > 0 && row.tokens[t] == 0;
        EXPECT_EQ(row.segment_ids[t], segment);
        EXPECT_EQ(row.loss_weight[t], 1.0F);
        if (t > 0) {
          EXPECT_EQ(row.tokens[t], row.targets[t - 1]);
        }
      }
    }
    std::set<std::vector<int32_t>> expected;
    for (size_t w = 0; w < 21; ++w) {
      expected.insert({stream.begin() + static_cast<std::ptrdiff_t>(w * 5),
                       stream.begin() + static_cast<std::ptrdiff_t>(w * 5 + 5)});
    }
    EXPECT_EQ(seen, expected);
  }
  // Rows do not depend on how samples are grouped.
  const Batch all = source.batch(3, 8);
  const std::vector<int64_t> rank{4, 6, 8};
  const Batch some = source.batch(rank);
  for (size_t r = 0; r < 3; ++r) {
    for (size_t t = 0; t < 5; ++t) {
      EXPECT_EQ(some.tokens[r * 5 + t], all.tokens[static_cast<size_t>(rank[r] - 3) * 5 + t]);
    }
  }
  expect_error(ErrorCode::kRequest, {"107 tokens are fewer than one context of 200"},
               [&] { BatchSource s(shards, 200, 0); });
}

TEST(BatchSource, CerebrasSamplesAndLossMask) {
  const TempDir dir, masked;
  H5File file = H5File::create(dir / "data-00000.h5");
  std::vector<int32_t> rows;
  for (int32_t sample = 0; sample < 4; ++sample) {
    for (int32_t t = 0; t < 6; ++t) rows.push_back(sample * 10 + t);
    for (int32_t t = 0; t < 6; ++t) rows.push_back(t < 4 ? 1 : 0);
    for (int32_t t = 0; t < 6; ++t) rows.push_back(sample * 10 + t + 1);
  }
  file.write<int32_t>("data", {4, 3, 6}, rows);
  file.close();
  const ShardSet shards(dir.path());
  EXPECT_EQ(shards.samples(), 4);
  const BatchSource source(shards, 6, 1, BatchSource::Order::kSequential);
  const Batch batch = source.batch(2, 1);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{20, 21, 22, 23, 24, 25}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{21, 22, 23, 24, 25, 26}));
  EXPECT_EQ(batch.loss_weight, (std::vector<float>{1, 1, 1, 1, 0, 0}));
  expect_error(ErrorCode::kRequest, {"samples of 6 tokens, the context is 5"},
               [&] { BatchSource s(shards, 5, 1); });

  H5File with_mask = H5File::create(masked / "a.h5");
  with_mask.write<uint16_t>("data", {4}, std::vector<uint16_t>{1, 2, 3, 4});
  with_mask.write<uint8_t>("loss_mask", {4}, std::vector<uint8_t>{1, 0, 1, 0});
  with_mask.set_attribute("", "eos_id", int64_t{0});
  with_mask.close();
  const ShardSet stream(masked.path());
  EXPECT_EQ(BatchSource(stream, 4, 0).batch(0, 1).loss_weight, (std::vector<float>{1, 0, 1, 0}));
}

}  // namespace
}  // namespace ashlar

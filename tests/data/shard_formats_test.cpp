#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstring>

#include "core/hdf5/hdf5.h"
#include "data/shards/batch_source.h"
#include "data/shards/padded_documents.h"
#include "data/shards/shard_set.h"
#include "tests/support/files.h"

// Shards of others: llm.c's, and HDF5 files that hold something else than tokens.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

template <typename T>
std::string llmc(int32_t magic, int32_t version, int32_t count, const std::vector<T>& tokens) {
  std::string out(1024 + tokens.size() * sizeof(T), '\0');
  const int32_t header[] = {magic, version, count};
  std::memcpy(out.data(), header, sizeof header);
  std::memcpy(out.data() + 1024, tokens.data(), tokens.size() * sizeof(T));
  return out;
}

std::string gpt2(const std::vector<uint16_t>& tokens) {
  return llmc<uint16_t>(20240520, 1, static_cast<int32_t>(tokens.size()), tokens);
}

std::vector<int32_t> read_all(const ShardSet& shards) {
  std::vector<int32_t> out(static_cast<size_t>(shards.total_tokens()));
  shards.read(0, out);
  return out;
}

TEST(LlmcShards, AFolderIsOneStream) {
  const TempDir dir;
  test::write_text(dir / "x_000002.bin", gpt2({7, 50256, 8}));
  test::write_text(dir / "x_000001.bin", gpt2({50256, 5, 6}));
  const ShardSet shards(dir.path(), {.eos_id = 50256, .vocab_size = 50257});
  EXPECT_EQ(read_all(shards), (std::vector<int32_t>{50256, 5, 6, 7, 50256, 8}));
  EXPECT_EQ(shards.eos_id(), std::optional<int32_t>(50256));
  EXPECT_FALSE(shards.vocab_size().has_value());
  EXPECT_FALSE(shards.source_bytes().has_value());
  EXPECT_EQ(shards.document_starts(), (std::vector<int64_t>{0, 1, 3, 5}));
  const BatchSource source(shards, 3, 1, BatchSource::Order::kSequential);
  const Batch batch = source.batch(0, 2);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{50256, 50256, 5, 6, 7, 50256}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{50256, 5, 6, 7, 50256, 8}));
  EXPECT_EQ(batch.loss_weight, std::vector<float>(6, 1));
  // One file alone, as where training and validation lie in one folder.
  EXPECT_EQ(read_all(ShardSet(dir / "x_000002.bin")), (std::vector<int32_t>{7, 50256, 8}));
}

TEST(LlmcShards, Llama3sAreWider) {
  const TempDir dir;
  test::write_text(dir / "a.bin", llmc<uint32_t>(20240801, 7, 3, {128000, 9906, 0}));
  const ShardSet shards(dir.path(), {.eos_id = 128001});
  EXPECT_EQ(read_all(shards), (std::vector<int32_t>{128000, 9906, 0}));
}

TEST(LlmcShards, WhatTheyDoNotSayIsAsked) {
  const TempDir dir;
  test::write_text(dir / "a.bin", gpt2({1, 2, 3, 4}));
  const ShardSet shards(dir.path());
  expect_error(ErrorCode::kRequest, {"no attribute 'eos_id'"}, [&] { BatchSource(shards, 2, 0); });
  const ShardSet bounded(dir.path(), {.eos_id = 0, .vocab_size = 4});
  expect_error(ErrorCode::kData, {"a.bin", "token 4 is outside"}, [&] { bounded.token(3); });
}

TEST(LlmcShards, HostileFilesAreNamed) {
  const TempDir dir;
  const auto refuse = [&](const std::string& content, const std::vector<std::string>& why) {
    test::write_text(dir / "a.bin", content);
    expect_error(ErrorCode::kData, why, [&] { ShardSet s(dir.path()); });
  };
  const std::vector<uint16_t> tokens = {1, 2, 3};
  refuse("", {"a.bin", "0 bytes are too few"});
  refuse(std::string(1023, 'x'), {"a.bin", "too few"});
  refuse(std::string(5000, 'x'), {"a.bin", "is no token shard of llm.c"});
  refuse(llmc<uint16_t>(20240520, 7, 3, tokens), {"a.bin", "unknown version 7"});
  refuse(llmc<uint16_t>(20240801, 1, 3, tokens), {"a.bin", "unknown version 1"});
  for (const int32_t count : {4, 2, -1, 2147483647, -2147483647 - 1}) {
    refuse(llmc<uint16_t>(20240520, 1, count, tokens),
           {"a.bin", fmt::format("says {} tokens", count), "6 bytes"});
  }
  refuse(llmc<uint16_t>(20240520, 1, 3, tokens).substr(0, 1029), {"a.bin", "5 bytes"});
  refuse(llmc<uint16_t>(20240520, 1, 0, {}), {"hold no tokens"});
  test::write_text(dir / "a.bin", gpt2(tokens));
  H5File file = H5File::create(dir / "b.h5");
  file.write<uint16_t>("data", {1}, std::vector<uint16_t>{1});
  file.close();
  expect_error(ErrorCode::kRequest, {"both *.h5 and *.bin"}, [&] { ShardSet s(dir.path()); });
}

TEST(ShardSet, EosOfTheFileAndOfTheRequestMustAgree) {
  const TempDir dir;
  H5File file = H5File::create(dir / "a.h5");
  file.write<uint16_t>("data", {2}, std::vector<uint16_t>{1, 0});
  file.set_attribute("", "eos_id", int64_t{0});
  file.close();
  EXPECT_EQ(ShardSet(dir.path(), {.eos_id = 0}).eos_id(), std::optional<int32_t>(0));
  expect_error(ErrorCode::kRequest, {"eos_id 1 was asked for", "say 0"},
               [&] { ShardSet s(dir.path(), {.eos_id = 1}); });
}

template <typename T>
void write_data(const fs::path& path, const std::vector<T>& values) {
  H5File file = H5File::create(path);
  file.write<T>("data", {static_cast<int64_t>(values.size())}, values);
  file.close();
}

TEST(ShardSet, ForeignTypesAreNamed) {
  const TempDir dir;
  const auto refuse = [&](const std::vector<std::string>& why) {
    expect_error(ErrorCode::kData, why, [&] {
      const ShardSet s(dir.path());
      s.token(0);
    });
  };
  write_data<float>(dir / "a.h5", {1});
  refuse({"a.h5", "'data'", "holds F32, expected integers"});
  write_data<double>(dir / "a.h5", {1});
  refuse({"a.h5", "'data'", "holds F64, expected integers"});
  write_data<int8_t>(dir / "a.h5", {-1});
  refuse({"a.h5", "token -1 is outside"});
  write_data<uint64_t>(dir / "a.h5", {uint64_t{1} << 63});
  refuse({"a.h5", "value 9223372036854775808 is out of range"});
  write_data<int32_t>(dir / "a.h5", {-1});
  refuse({"a.h5", "token -1 is outside"});
  write_data<uint32_t>(dir / "a.h5", {4000000000u});
  refuse({"a.h5", "value 4000000000 is out of range"});
  write_data<int64_t>(dir / "a.h5", {int64_t{1} << 40});
  refuse({"a.h5", "is out of range"});

  write_data<int16_t>(dir / "a.h5", {32767});
  EXPECT_EQ(ShardSet(dir.path()).token(0), 32767);
  write_data<uint64_t>(dir / "a.h5", {77});
  EXPECT_EQ(ShardSet(dir.path()).token(0), 77);

  // A compound type, and text.
  const hid_t pair = H5Tcreate(H5T_COMPOUND, 8);
  H5Tinsert(pair, "a", 0, H5T_STD_I32LE);
  H5Tinsert(pair, "b", 4, H5T_STD_I32LE);
  const hid_t text = H5Tcopy(H5T_C_S1);
  for (const hid_t type : {pair, text}) {
    const hid_t file = H5Fcreate((dir / "a.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t size = 4;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t data = H5Dcreate2(file, "data", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    ASSERT_GE(data, 0);
    H5Dclose(data);
    H5Sclose(space);
    H5Fclose(file);
    refuse({"a.h5", "data"});
  }
  H5Tclose(pair);
  H5Tclose(text);
}

}  // namespace
}  // namespace ashlar

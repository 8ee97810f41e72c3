#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/io/sha256.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

TEST(Json, RoundTripsEveryKind) {
  const std::string text =
      R"({"a":[1,-2,3.5,true,null,"é\n"],"b":{"c":9007199254740993},"d":1e-300})";
  const Node node = parse_json(text, "x.json");
  EXPECT_EQ(node.find("b")->find("c")->as_int(), 9007199254740993);
  EXPECT_EQ(write_json(parse_json(write_json(node), "y")), write_json(node));
  EXPECT_EQ(write_json(Node(std::nan(""))), "null");
}

TEST(Json, HostileTextIsRefusedInOneLine) {
  const auto refuses = [](const std::string& text, const std::string& fragment) {
    test::expect_error(ErrorCode::kData, {"x.json", fragment}, [&] { parse_json(text, "x.json"); });
  };
  refuses("{\"a\":1,\"a\":2}", "duplicate key 'a'");
  refuses("{\"a\":", "invalid JSON at byte");
  refuses(std::string(200, '['), "nested deeper than 100");
  refuses("18446744073709551615", "too large");
  refuses("\"\xff\"", "invalid JSON");
  refuses("", "invalid JSON");
}

TEST(Sha256, EqualsThePublishedVectors) {
  EXPECT_EQ(sha256_hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string abc = "abc";
  EXPECT_EQ(sha256_hex(std::as_bytes(std::span(abc.data(), abc.size()))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(AtomicFile, AppearsWholeOrNotAtAll) {
  const test::TempDir dir;
  {
    AtomicFile file(dir / "a");
    file.write("half");
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  write_file_atomically(dir / "a", "whole");
  write_file_atomically(dir / "a", "again");
  EXPECT_EQ(read_file(dir / "a"), "again");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
  test::expect_error(ErrorCode::kRequest, {"missing", "cannot open"},
                     [&] { read_file(dir / "missing"); });
}

TEST(AtomicFolder, AppearsWholeOrNotAtAll) {
  const test::TempDir dir;
  {
    AtomicFolder folder(dir / "out");
    test::write_text(folder.staging() / "x", "1");
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  AtomicFolder folder(dir / "out/");
  test::write_text(folder.staging() / "x", "1");
  folder.commit();
  EXPECT_EQ(read_file(dir / "out/x"), "1");
  for (const char* nameless : {"", "/"}) {
    test::expect_error(ErrorCode::kRequest, {"no name for a new folder"},
                       [&] { AtomicFolder none(nameless); });
  }
  test::expect_error(ErrorCode::kRequest, {"out", "exists already"},
                     [&] { AtomicFolder again(dir / "out"); });
}

// Two tensors, one whose size is no multiple of 64.
std::vector<TensorInfo> two_tensors() {
  TensorInfo odd{"odd", DType::kU8, {5}, 0, 0}, even{"even", DType::kF32, {4, 4}, 0, 0};
  return {odd, even};
}

fs::path write_sample(const fs::path& path) {
  SafetensorsWriter writer(path, two_tensors(), {{"format", "test"}});
  for (const TensorInfo& t : writer.layout()) {
    std::vector<std::byte> bytes(static_cast<size_t>(t.bytes), std::byte{7});
    writer.write_next(bytes);
  }
  writer.commit();
  return path;
}

TEST(Safetensors, RoundTripsWithAlignedData) {
  const test::TempDir dir;
  const SafetensorsFile file(write_sample(dir / "m.safetensors"));
  EXPECT_EQ(file.metadata().at("format"), "test");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "even");
  const std::string raw = read_file(dir / "m.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, raw.data(), 8);
  EXPECT_EQ((header + 8) % 64, 0u);
  EXPECT_EQ(file.data(*file.find("odd")).size(), 5u);
  EXPECT_EQ(file.find("none"), nullptr);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const test::TempDir dir;
  const std::string whole = read_file(write_sample(dir / "m.safetensors"));
  for (size_t n = 0; n < whole.size(); ++n) {
    test::write_text(dir / "cut", whole.substr(0, n));
    ASSERT_THROW(SafetensorsFile{dir / "cut"}, Error) << n;
  }
  test::write_text(dir / "cut", whole + "x");
  test::expect_error(ErrorCode::kData, {"cut", "after the last tensor"},
                     [&] { SafetensorsFile file(dir / "cut"); });
}

TEST(Safetensors, HostileHeadersAreRefused) {
  const test::TempDir dir;
  const auto refuses = [&](const std::string& header, const std::string& fragment) {
    const uint64_t size = header.size();
    std::string raw(reinterpret_cast<const char*>(&size), 8);
    test::write_text(dir / "h", raw + header + std::string(64, '\0'));
    test::expect_error(ErrorCode::kData, {fragment}, [&] { SafetensorsFile file(dir / "h"); });
  };
  refuses(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,64]}})",
          "overflows");
  refuses(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,64]}})", "invalid shape");
  refuses(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}})", "invalid data_offsets");
  refuses(R"({"a":{"dtype":"F32","shape":[15],"data_offsets":[0,64]}})", "need 60");
  refuses(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[64,128]}})", "starts at 64");
  refuses(R"({"a":{"dtype":"X9","shape":[16],"data_offsets":[0,64]}})", "X9");
  refuses(R"([1])", "not a JSON object");
}

}  // namespace
}  // namespace ashlar

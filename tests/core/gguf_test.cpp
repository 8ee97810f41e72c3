#include "core/io/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/io/atomic_file.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

// Pieces of a file, little endian.
template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
std::string u32(uint32_t v) { return raw(v); }
std::string u64(uint64_t v) { return raw(v); }
std::string text(const std::string& s) { return u64(s.size()) + s; }
std::string tensor(const std::string& name, const std::vector<uint64_t>& ne, uint32_t type,
                   uint64_t offset) {
  std::string out = text(name) + u32(static_cast<uint32_t>(ne.size()));
  for (uint64_t d : ne) out += u64(d);
  return out + u32(type) + u64(offset);
}
std::string file(const std::vector<std::string>& keys, const std::vector<std::string>& tensors,
                 size_t data_bytes, uint32_t version = 3, size_t alignment = 32) {
  std::string out = "GGUF" + u32(version) + u64(tensors.size()) + u64(keys.size());
  for (const std::string& k : keys) out += k;
  for (const std::string& t : tensors) out += t;
  out.resize((out.size() + alignment - 1) / alignment * alignment);
  return out + std::string(data_bytes, '\x01');
}

std::vector<std::byte> bytes_of(size_t count, int value) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

fs::path write_sample(const fs::path& path) {
  GgufMetadata meta;
  meta.text("general.architecture", "llama");
  meta.u32("llama.block_count", std::numeric_limits<uint32_t>::max());
  meta.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
  meta.boolean("tokenizer.ggml.add_bos_token", true);
  meta.texts("tokenizer.ggml.tokens", std::vector<std::string>{"a", "", "\xe2\x96\x81"});
  meta.i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, -3});
  meta.f32s("tokenizer.ggml.scores", std::vector<float>{0.1f, -2.0f});
  GgufWriter writer(path, meta,
                    {{"norm", GgufType::kF32, {3}, 0, 0}, {"w", GgufType::kQ4_1, {2, 64}, 0, 0}});
  EXPECT_EQ(writer.layout()[1].offset, 32);
  EXPECT_EQ(writer.layout()[1].bytes, 80);
  writer.write_next(bytes_of(12, 5));
  writer.write_next(bytes_of(80, 6));
  writer.commit();
  return path;
}

TEST(Gguf, RoundTrips) {
  const test::TempDir dir;
  const GgufFile in(write_sample(dir / "m.gguf"));
  EXPECT_TRUE(is_gguf(dir / "m.gguf"));
  const Node& meta = in.metadata();
  EXPECT_EQ(meta.find("general.architecture")->as_string(), "llama");
  EXPECT_EQ(meta.find("llama.block_count")->as_int(), 4294967295);
  EXPECT_EQ(meta.find("llama.attention.layer_norm_rms_epsilon")->as_double(), 1e-5);
  EXPECT_TRUE(meta.find("tokenizer.ggml.add_bos_token")->as_bool());
  EXPECT_EQ(meta.find("tokenizer.ggml.tokens")->as_list().at(2).as_string(), "\xe2\x96\x81");
  EXPECT_EQ(meta.find("tokenizer.ggml.token_type")->as_list().at(1).as_int(), -3);
  EXPECT_EQ(meta.find("tokenizer.ggml.scores")->as_list().at(0).as_double(), 0.1);
  ASSERT_EQ(in.tensors().size(), 2u);
  const GgufTensor& w = *in.find("w");
  EXPECT_EQ(w.shape, (std::vector<int64_t>{2, 64}));
  ASSERT_EQ(in.data(w).size(), 80u);
  in.mapping()->release(in.data(w));
  EXPECT_EQ(in.data(w)[79], std::byte{6});
  EXPECT_EQ(in.data(in.tensors()[0])[11], std::byte{5});
  EXPECT_EQ(in.find("none"), nullptr);
}

TEST(Gguf, EveryTruncationIsRefused) {
  const test::TempDir dir;
  // The padding behind the last tensor may be missing, so the sample ends with it cut off.
  const std::string padded = read_file(write_sample(dir / "m.gguf"));
  const std::string whole = padded.substr(0, padded.size() - 16);
  test::write_text(dir / "cut", whole);
  EXPECT_EQ(GgufFile(dir / "cut").tensors().size(), 2u);
  for (size_t n = 0; n < whole.size(); ++n) {
    test::write_text(dir / "cut", whole.substr(0, n));
    test::expect_error(ErrorCode::kData, {"cut: truncated"}, [&] { GgufFile in(dir / "cut"); });
  }
  EXPECT_FALSE(is_gguf(dir / "none"));
}

TEST(Gguf, AnUnfinishedFileLeavesNothing) {
  const test::TempDir dir;
  { GgufWriter writer(dir / "m.gguf", {}, {{"norm", GgufType::kF32, {3}, 0, 0}}); }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

class HostileGguf : public ::testing::Test {
 protected:
  void refuses(const std::string& bytes, const std::vector<std::string>& fragments) {
    test::write_text(dir_ / "h.gguf", bytes);
    std::vector<std::string> all = fragments;
    all.push_back("h.gguf: ");
    test::expect_error(ErrorCode::kData, all, [&] { GgufFile in(dir_ / "h.gguf"); });
  }
  void accepts(const std::string& bytes) {
    test::write_text(dir_ / "h.gguf", bytes);
    EXPECT_NO_THROW(GgufFile in(dir_ / "h.gguf"));
  }
  test::TempDir dir_;
};

TEST_F(HostileGguf, Headers) {
  accepts(file({}, {tensor("a", {4}, 0, 0)}, 16));
  accepts(file({}, {}, 0, 2));
  refuses("GGML" + u32(3) + u64(0) + u64(0), {"not a GGUF file"});
  refuses(file({}, {}, 0, 1), {"version 1 is not supported"});
  refuses(file({}, {}, 0, 0x03000000), {"big-endian"});
  refuses("GGUF" + u32(3) + u64(1ull << 60) + u64(0) + std::string(99, 'x'),
          {"truncated", "1152921504606846976 tensors announced"});
  refuses("GGUF" + u32(3) + u64(0) + u64(~0ull), {"18446744073709551615 metadata keys"});
}

TEST_F(HostileGguf, Metadata) {
  const auto key = [](const std::string& name, uint32_t type, const std::string& value) {
    return file({text(name) + u32(type) + value}, {}, 64);
  };
  accepts(key("k", 9, u32(4) + u64(1) + u32(7)));
  refuses(key("", 4, u32(1)), {"metadata key", "printable ASCII"});
  refuses(key("a\nb", 4, u32(1)), {"metadata key", "printable ASCII"});
  refuses(key("k", 13, u32(1)), {"'k'", "unknown value type 13"});
  refuses(key("k", 7, "\x02"), {"'k'", "2 is no truth value"});
  refuses(key("k", 10, u64(~0ull)), {"'k'", "18446744073709551615 is beyond"});
  refuses(key("k", 8, u64(~0ull)), {"truncated", "18446744073709551615 bytes"});
  refuses(key("k", 9, u32(4) + u64(~0ull)), {"truncated", "'k'", "18446744073709551615 values"});
  refuses(key("k", 9, u32(9) + u64(1) + u32(4) + u64(0)), {"'k'", "lists of lists"});
  refuses(key("k", 9, u32(77) + u64(0)), {"'k'", "unknown value type 77"});
  refuses(key("k", 9, u32(0) + u64(5 << 20) + std::string(5 << 20, 'x')),
          {"'k'", "more than 4194304 metadata values"});
  const std::string twice = text("k") + u32(4) + u32(1);
  refuses(file({twice, twice}, {}, 0), {"'k' appears twice"});
}

TEST_F(HostileGguf, Tensors) {
  const auto one = [](const std::string& t) { return file({}, {t}, 64); };
  accepts(one(tensor("a", {4, 2, 1, 2}, 0, 0)));
  refuses(one(tensor("a", {}, 0, 0)), {"'a' has 0 dimensions"});
  refuses(one(tensor("a", {1, 1, 1, 1, 1}, 0, 0)), {"'a' has 5 dimensions"});
  refuses(one(tensor("a", {4, 0}, 0, 0)), {"'a' has a dimension of 0"});
  refuses(one(tensor("a", {1ull << 63}, 0, 0)), {"'a' has a dimension of 9223372036854775808"});
  refuses(one(tensor("a", {1ull << 40, 1ull << 40}, 0, 0)), {"'a'", "overflows"});
  refuses(one(tensor("a", {1ull << 62}, 0, 0)), {"'a'", "overflows"});
  refuses(one(tensor("a", {4}, 4, 0)), {"'a' has the unknown type 4"});
  refuses(one(tensor("a", {48}, 2, 0)), {"'a'", "rows of 48 are no whole Q4_0 blocks of 32"});
  refuses(one(tensor("a", {4}, 0, ~0ull)), {"'a' starts at 18446744073709551615"});
  refuses(one(tensor("a", {4}, 0, 8)), {"'a' starts at 8, no multiple of 32"});
  refuses(one(tensor("a", {4}, 0, 96)), {"truncated", "'a'", "the data has 64"});
  refuses(one(tensor("a", {17}, 0, 0)), {"truncated", "'a' needs 68 bytes", "the data has 64"});
  refuses(one(tensor("a b", {4}, 0, 0)), {"tensor name", "printable ASCII"});
  refuses(file({}, {tensor("a", {4}, 0, 0), tensor("a", {4}, 0, 32)}, 64), {"'a' appears twice"});
  refuses(file({}, {tensor("a", {9}, 0, 0), tensor("b", {4}, 0, 32)}, 64), {"'b' overlaps"});
}

TEST_F(HostileGguf, Alignment) {
  const auto aligned = [](const std::string& value, size_t alignment) {
    return file({text("general.alignment") + value}, {tensor("a", {4}, 0, 0)}, 16, 3, alignment);
  };
  accepts(aligned(u32(4) + u32(8), 8));
  accepts(aligned(u32(4) + u32(4096), 4096));
  for (const std::string& bad : {u32(4) + u32(0), u32(4) + u32(48), u32(4) + u32(1u << 31),
                                 u32(8) + text("32"), u32(5) + raw(int32_t{-32})}) {
    refuses(aligned(bad, 32), {"general.alignment is no power of two"});
  }
}

}  // namespace
}  // namespace ashlar

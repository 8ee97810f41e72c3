#include "core/io/gguf.h"

#include <gtest/gtest.h>

#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/sha256.h"
#include "package/format/k_quants.h"
#include "package/format/package.h"
#include "package/import/gguf_blocks.h"
#include "package/import/gguf_model.h"
#include "package/import/gguf_names.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

// Files and hashes by the Python package `gguf`: tests/golden/make_gguf_golden.py.

namespace ashlar {
namespace {
namespace fs = std::filesystem;

const fs::path kFolder = "tests/golden/gguf";

Node golden(const std::string& name) { return *load_json(kFolder / "golden.json").find(name); }

std::string hash_of(const WeightTensor& tensor) {
  return sha256_hex(std::as_bytes(std::span<const float>(to_floats(tensor))));
}

WeightTensor block_tensor(const GgufFile& file, const std::string& name) {
  const GgufTensor* t = file.find(name);
  return weight_from_gguf(name, t->shape, t->type, file.data(*t), nullptr);
}

TEST(GgufBlocks, EveryTypeHasTheValuesOfTheReference) {
  const GgufFile file(kFolder / "blocks.gguf");
  const Node expected = golden("blocks");
  EXPECT_EQ(expected.as_map().size(), 15u);
  for (const auto& [name, hash] : expected.as_map()) {
    const WeightTensor tensor = block_tensor(file, name);
    EXPECT_EQ(hash_of(tensor), hash.as_string()) << name;
    EXPECT_EQ(hash_of(unpacked(tensor)), hash.as_string()) << name;
    EXPECT_EQ(tensor.encoding(), gguf_encoding(file.find(name)->type)) << name;
  }
}

TEST(GgufBlocks, EncodersRoundAsTheReference) {
  const GgufFile file(kFolder / "blocks.gguf");
  const std::vector<float> source = to_floats(block_tensor(file, "source"));
  for (const GgufType type : {GgufType::kQ8_0, GgufType::kQ4_0}) {
    const std::string name(gguf_type_info(type).name);
    const auto expected = file.data(*file.find("source." + name));
    const auto actual = encode_gguf(type, source, name);
    EXPECT_TRUE(std::equal(actual.begin(), actual.end(), expected.begin(), expected.end())) << name;
  }
  std::vector<float> quarters(source.begin(), source.begin() + 3 * 64);
  for (float& v : quarters) v /= 4;
  const auto expected = file.data(*file.find("source.F16"));
  const auto actual = encode_gguf(GgufType::kF16, quarters, "F16");
  EXPECT_TRUE(std::equal(actual.begin(), actual.end(), expected.begin(), expected.end()));
}

TEST(GgufBlocks, CodesBecomeTheSameBlocksAgain) {
  const GgufFile file(kFolder / "blocks.gguf");
  for (const GgufType type : {GgufType::kQ8_0, GgufType::kQ4_0}) {
    const std::string name = "random." + std::string(gguf_type_info(type).name);
    const auto expected = file.data(*file.find(name));
    const auto actual = blocks_from_codes(block_tensor(file, name), type);
    EXPECT_TRUE(std::equal(actual.begin(), actual.end(), expected.begin(), expected.end())) << name;
  }
  // Five bits, and four, fit eight.
  for (const char* name : {"random.Q5_0", "random.Q4_0"}) {
    const WeightTensor codes = block_tensor(file, name);
    const auto blocks = blocks_from_codes(codes, GgufType::kQ8_0);
    const auto back = weight_from_gguf(name, codes.shape, GgufType::kQ8_0, blocks, nullptr);
    EXPECT_TRUE(test::within(to_floats(back), to_floats(codes), test::exact()));
    EXPECT_EQ(fits_gguf_blocks(codes.encoding(), 512, GgufType::kQ4_0),
              std::string(name) == "random.Q4_0");
  }
  for (const char* name : {"random.Q4_1", "random.Q4_K"}) {
    EXPECT_FALSE(fits_gguf_blocks(block_tensor(file, name).encoding(), 512, GgufType::kQ8_0));
  }
}

TEST(GgufBlocks, ValuesThatCannotBeStoredAreRefused) {
  std::vector<float> values(32, 1.0f);
  const auto refuses = [&](GgufType type, float value, const std::string& fragment) {
    values[7] = value;
    test::expect_error(ErrorCode::kData, {"'w'", fragment},
                       [&] { encode_gguf(type, values, "'w'"); });
  };
  refuses(GgufType::kF16, 7e4f, "beyond what 16 bits hold");
  refuses(GgufType::kQ8_0, 127 * 7e4f, "beyond what 16 bits hold");
  refuses(GgufType::kQ4_0, 8 * 7e4f, "beyond what 16 bits hold");
  refuses(GgufType::kQ8_0, NAN, "a value is nan");
}

TEST(GgufModel, EveryArchitectureHasTheWeightsOfTheReference) {
  for (const char* name : {"llama_legacy", "llama_k", "qwen2", "qwen3", "gptneox"}) {
    SCOPED_TRACE(name);
    const ModelData model = import_gguf(kFolder / (std::string(name) + ".gguf"));
    const Node expected = golden(name);
    EXPECT_EQ(model.tensors.size(), expected.find("tensors")->as_map().size());
    for (const auto& [tensor, hash] : expected.find("tensors")->as_map()) {
      EXPECT_EQ(hash_of(model.tensor(tensor)), hash.as_string()) << tensor;
    }
    const Node& start = *expected.find("start");
    EXPECT_EQ(model.start_token.value_or(-1), start.is_int() ? start.as_int() : -1);
    std::vector<int64_t> stops;
    for (const Node& stop : expected.find("stop")->as_list()) stops.push_back(stop.as_int());
    EXPECT_EQ(model.stop_tokens, stops);
    EXPECT_EQ(model.chat_template, expected.find("chat_template")->as_string());
    EXPECT_EQ(model.name, expected.find("name")->as_string());
    const test::TempDir dir;
    write_package(model, dir / "m");
    EXPECT_EQ(weights_sha256(read_package(dir / "m")), weights_sha256(model));
  }
}

ModelSpec spec_of(const char* name) {
  return import_gguf(kFolder / (std::string(name) + ".gguf")).spec;
}

TEST(GgufModel, MetadataBecomeTheSpec) {
  const ModelSpec legacy = spec_of("llama_legacy");
  EXPECT_EQ(legacy.context_length, 128);
  EXPECT_FALSE(legacy.tied_head);
  const LayerSpec& llama = legacy.stacks[0].layers.at(1);
  EXPECT_EQ(llama.norm.eps, 1e-6);
  EXPECT_EQ(llama.attention.kv_heads, 2);
  EXPECT_EQ(llama.attention.head_dim, 8);
  EXPECT_EQ(llama.attention.rope.scaling.kind, RopeScalingKind::kLinear);
  EXPECT_EQ(llama.attention.rope.scaling.factor, 4);
  EXPECT_EQ(llama.attention.bias, BiasKind::kNone);

  const ModelSpec k = spec_of("llama_k");
  EXPECT_TRUE(k.tied_head);
  const RopeSpec rope{32, 500000, {RopeScalingKind::kLlama3, 32, 8192, 1, 4, 32, 1}};
  EXPECT_EQ(k.stacks[0].layers[0].attention.rope, rope);

  const AttentionSpec qwen2 = spec_of("qwen2").stacks[0].layers[0].attention;
  EXPECT_EQ(qwen2.bias, BiasKind::kQkv);
  const RopeSpec yarn{8, 1e6, {RopeScalingKind::kYarn, 4, 128, 1, 4, 32, 1}};
  EXPECT_EQ(qwen2.rope, yarn);

  const AttentionSpec qwen3 = spec_of("qwen3").stacks[0].layers[0].attention;
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 16);

  const LayerSpec neox = spec_of("gptneox").stacks[0].layers[0];
  EXPECT_EQ(neox.residual, ResidualKind::kParallel);
  EXPECT_EQ(neox.norm, (NormSpec{NormKind::kLayerNorm, 1e-5, true}));
  EXPECT_EQ(neox.ffn, (FfnSpec{FfnKind::kGelu, 64, true}));
  EXPECT_EQ(neox.attention.rope.dim, 4);
  EXPECT_EQ(neox.attention.bias, BiasKind::kAll);
}

// A copy of a golden file, edited before it is written again.
class BadGguf : public ::testing::Test {
 protected:
  using Keys = std::vector<std::pair<std::string, Node>>;

  void refuses(const std::string& name, const std::function<void()>& edit,
               const std::vector<std::string>& fragments, ErrorCode code = ErrorCode::kData) {
    source_ = std::make_unique<GgufFile>(kFolder / (name + ".gguf"));
    keys_ = source_->metadata().as_map();
    tensors_ = source_->tensors();
    edit();
    write();
    std::vector<std::string> all = fragments;
    all.push_back("bad.gguf");
    test::expect_error(code, all, [&] { import_gguf(dir_ / "bad.gguf"); });
  }
  void refuses_key(const std::string& name, const std::string& key, const Node& value,
                   const std::vector<std::string>& fragments,
                   ErrorCode code = ErrorCode::kRequest) {
    SCOPED_TRACE(key);
    refuses(
        name, [&] { set(key, value); }, fragments, code);
  }
  void set(const std::string& key, const Node& value) {
    std::erase_if(keys_, [&](const auto& entry) { return entry.first == key; });
    if (!value.is_null()) keys_.emplace_back(key, value);
  }
  GgufTensor& tensor(const std::string& name) {
    return *std::find_if(tensors_.begin(), tensors_.end(),
                         [&](const GgufTensor& t) { return t.name == name; });
  }
  void drop(const std::string& name) {
    std::erase_if(tensors_, [&](const GgufTensor& t) { return t.name == name; });
  }

  std::vector<GgufTensor> tensors_;

 private:
  void write() {
    GgufMetadata meta;
    for (const auto& [key, value] : keys_) {
      if (value.is_int()) meta.u32(key, value.as_int());
      if (value.is_double()) meta.f32(key, value.as_double());
      if (value.is_bool()) meta.boolean(key, value.as_bool());
      if (value.is_string()) meta.text(key, value.as_string());
    }
    GgufWriter writer(dir_ / "bad.gguf", meta, tensors_);
    for (const GgufTensor& t : writer.layout()) {
      writer.write_next(std::vector<std::byte>(static_cast<size_t>(t.bytes)));
    }
    writer.commit();
  }

  std::unique_ptr<GgufFile> source_;
  Keys keys_;
  test::TempDir dir_;
};

TEST_F(BadGguf, Architectures) {
  const auto data = ErrorCode::kData;
  refuses_key("llama_k", "general.architecture", "gemma3",
              {"architecture 'gemma3' is not supported", "llama, qwen2, qwen3 and gptneox"}, data);
  refuses_key("llama_k", "general.architecture", Node(), {"architecture ''"}, data);
  refuses_key("llama_k", "general.type", "adapter", {"holds no model but 'adapter'"}, data);
  refuses_key("llama_k", "split.count", 3, {"one piece of a split model"}, data);
}

TEST_F(BadGguf, Keys) {
  refuses_key("llama_k", "llama.expert_count", 8, {"llama.expert_count", "MoE"});
  refuses_key("llama_k", "llama.logit_scale", 2, {"llama.logit_scale", "unknown key"});
  refuses_key("llama_k", "llama.block_count", Node(), {"llama.block_count"});
  refuses_key("llama_k", "llama.block_count", 1 << 30, {"llama.block_count"});
  refuses_key("llama_k", "llama.attention.head_count", 0, {"llama.attention.head_count"});
  refuses_key("llama_legacy", "llama.attention.head_count", 5,
              {"llama.attention.head_count", "5 does not divide embedding_length = 32"});
  refuses_key("llama_k", "llama.attention.value_length", 16, {"value_length", "differs"});
  refuses_key("llama_legacy", "llama.rope.scaling.type", "longrope",
              {"llama.rope.scaling.type", "'longrope' is not supported"});
  refuses_key("qwen2", "qwen2.rope.scaling.attn_factor", 1.5, {"attn_factor", "only 1"});
  refuses_key("gptneox", "gptneox.use_parallel_residual", Node(), {"use_parallel_residual"});
  refuses_key("qwen3", "qwen3.attention.causal", false, {"qwen3.attention.causal"});
  const auto data = ErrorCode::kData;
  refuses_key("llama_k", "llama.rope.freq_base", 10000, {"rope_freqs.weight", "not Llama 3's"},
              data);
  refuses_key("llama_k", "llama.rope.scaling.factor", 2.0, {"both rope.scaling.type and"}, data);
  refuses_key("qwen2", "tokenizer.ggml.eos_token_id", 1 << 20, {"eos_token_id is outside"}, data);
  refuses_key("qwen2", "tokenizer.ggml.tokens", "x", {"does not list the 261 tokens"}, data);
  refuses_key("llama_legacy", "tokenizer.ggml.bos_token_id", Node(), {"bos_token_id is missing"},
              data);
}

TEST_F(BadGguf, Tensors) {
  refuses("llama_legacy", [&] { drop("blk.1.ffn_up.weight"); },
          {"'blk.1.ffn_up.weight' is missing"});
  refuses("gptneox", [&] { drop("output.weight"); }, {"'output.weight' is missing"});
  refuses("gptneox", [&] { drop("blk.0.attn_qkv.bias"); }, {"'blk.0.attn_qkv.bias' is missing"});
  refuses("qwen2", [&] { drop("blk.0.attn_q.bias"); }, {"'blk.0.attn_q.bias' is missing"});
  refuses("qwen2", [&] { drop("token_embd.weight"); }, {"'token_embd.weight' is missing"});
  refuses("llama_legacy",
          [&] {
            tensors_.push_back({"blk.2.attn_norm.weight", {}, {32}, 0, 0});
          },
          {"'blk.2.attn_norm.weight' does not belong to this llama model"});
  refuses("qwen3",
          [&] {
            tensors_.push_back({"rope_freqs.weight", {}, {8}, 0, 0});
          },
          {"'rope_freqs.weight' does not belong to this qwen3 model"});
  refuses("llama_k", [&] { tensor("rope_freqs.weight").shape = {8}; },
          {"'rope_freqs.weight' is not F32 [16]"});
  refuses("llama_legacy",
          [&] {
            tensor("blk.0.attn_k.weight").shape = {32, 32};
          },
          {"'blk.0.attn_k.weight' has shape [32, 32]", "needs [16, 32]"});
  refuses("gptneox",
          [&] {
            tensor("blk.0.attn_qkv.weight").shape = {64, 32};
          },
          {"'blk.0.attn_qkv.weight' has shape [64, 32]", "needs [96, 32]"});
  refuses("llama_k",
          [&] { drop("rope_freqs.weight"), tensor("token_embd.weight").type = GgufType::kQ3_K; },
          {"'token_embd.weight' has type Q3_K"});
  refuses(
      "llama_k",
      [&] { drop("rope_freqs.weight"), tensor("blk.0.attn_norm.weight").type = GgufType::kQ8_0; },
      {"'blk.0.attn_norm.weight' has type Q8_0", "no matrix"});
  refuses("llama_legacy",
          [&] {
            tensors_.push_back({"blk.0.attn_output.bias", {}, {32}, 0, 0});
          },
          {"attn_output without those of attn_q"});
}

TEST(GgufNames, RowsOfHalvesComeFromNeighbours) {
  EXPECT_EQ(half_split_rows(2, 4, 4), (std::vector<int64_t>{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(half_split_rows(1, 6, 4), (std::vector<int64_t>{0, 2, 1, 3, 4, 5}));
}

}  // namespace
}  // namespace ashlar

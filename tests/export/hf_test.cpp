#include "export/hf.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/io/json.h"
#include "core/io/safetensors_folder.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/train_bpe.h"
#include "package/format/package.h"
#include "package/import/hf_model.h"
#include "package/import/open_model.h"
#include "tests/support/files.h"
#include "tests/support/hf_golden.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

const std::string kGqa = "heads: 4, kv_heads: 2, head_dim: 8";

/// Decoders that a class of `transformers` computes, and which.
std::vector<std::pair<HfFamily, ModelSpec>> stock_specs() {
  const std::string gelu = "kind: gelu, d_ff: 24, bias: true",
                    layer_norm = ", norm: {kind: layernorm}";
  return {
      {HfFamily::kLlama, test::small_decoder()},
      {HfFamily::kLlama, test::small_decoder("none", "", true)},
      {HfFamily::kLlama, test::decoder_variant(kGqa + ", bias: all", "", "d_ff: 24, bias: true")},
      {HfFamily::kLlama,
       test::decoder_variant(kGqa +
                             ", rope_scaling: {kind: yarn, factor: 4, original_context: 64}")},
      {HfFamily::kLlama, test::decoder_variant(kGqa + ", rope_scaling: {kind: llama3, factor: 8, "
                                                      "original_context: 64}")},
      {HfFamily::kLlama, test::decoder_variant("heads: 4, head_dim: 12")},
      {HfFamily::kMistral,
       test::decoder_variant("heads: 3, head_dim: 8")},  // 32 is no multiple of 3
      {HfFamily::kMistral, test::decoder_variant(kGqa + ", window: 9")},
      {HfFamily::kQwen2, test::decoder_variant(kGqa + ", bias: qkv")},
      {HfFamily::kQwen2,
       test::decoder_variant(kGqa + ", bias: qkv, window: 9",
                             ", overrides: [{layers: [0, 2], attention: {window: 0}}]")},
      {HfFamily::kQwen3, test::decoder_variant(kGqa + ", qk_norm: true")},
      {HfFamily::kQwen3, test::decoder_variant(kGqa + ", qk_norm: true, bias: all, window: 9")},
      {HfFamily::kGptNeox, test::decoder_variant("heads: 4, head_dim: 8, bias: all, rope_dim: 2",
                                                 layer_norm + ", residual: parallel", gelu)},
      {HfFamily::kGptNeox,
       test::decoder_variant("heads: 4, head_dim: 8, rope_scaling: {kind: linear, factor: 2}",
                             layer_norm, gelu)},
  };
}

TEST(HfExport, StockFoldersComeBackAsTheyWere) {
  for (const auto& [family, spec] : stock_specs()) {
    ASSERT_EQ(stock_family(spec), family) << write_json(to_node(spec));
    SCOPED_TRACE(hf_model_type(family));
    const test::TempDir dir;
    const ModelData model = test::random_model(spec, 3);
    EXPECT_EQ(export_hf(model, dir / "hf"), model.weight_bytes());
    const Node config = load_json(dir / "hf/config.json");
    EXPECT_EQ(config.find("model_type")->as_string(), hf_model_type(family));
    EXPECT_EQ(config.find("architectures")->as_list()[0].as_string(), hf_architecture(family));
    EXPECT_EQ(config.find("ashlar"), nullptr);
    const ModelData back = open_model(dir / "hf");
    EXPECT_EQ(back.spec, spec);
    EXPECT_EQ(weights_sha256(back), weights_sha256(model));
    EXPECT_EQ(back.stop_tokens, model.stop_tokens);
  }
}

// What no class of the library can be told, one reason each.
TEST(HfExport, OtherNetworksAreNotGivenToAStockClass) {
  const ModelSpec specs[] = {
      test::small_decoder("cla2"),
      test::small_block(),
      test::small_latent(),
      test::small_windowed(),
      test::decoder_variant(kGqa, "", "d_ff: 24", "logit_softcap: 2.5\n"),
      test::decoder_variant(kGqa + ", rope_dim: 4"),
      test::decoder_variant(kGqa + ", rope_dim: 0"),
      test::decoder_variant(kGqa + ", kv_norm: separate"),
      test::decoder_variant(kGqa, ", residual: parallel"),
      test::decoder_variant(kGqa, ", norm: {kind: layernorm}"),
      test::decoder_variant(kGqa, "", "kind: relu2, d_ff: 24"),
      test::decoder_variant(kGqa + ", window: 9",
                            ", overrides: [{layers: [0], attention: {window: 0}}]"),
      test::decoder_variant(kGqa + ", window: 9, bias: all"),
      test::decoder_variant(kGqa + ", qk_norm: true", "", "d_ff: 24, bias: true"),
      test::decoder_variant(kGqa + ", qk_norm: true, window: 9",
                            ", overrides: [{layers: [0], attention: {window: 5}}]"),
      test::decoder_variant(kGqa, ", overrides: [{layers: [0], ffn: {d_ff: 28}}]"),
      test::decoder_variant(kGqa + ", bias: all", ", norm: {kind: layernorm}",
                            "kind: gelu, d_ff: 24, bias: true"),
      test::decoder_variant("heads: 4, head_dim: 8, window: 9", ", norm: {kind: layernorm}",
                            "kind: gelu, d_ff: 24, bias: true"),
      test::decoder_variant("heads: 4, head_dim: 12", ", norm: {kind: layernorm}",
                            "kind: gelu, d_ff: 24, bias: true"),
  };
  for (const ModelSpec& spec : specs) {
    EXPECT_EQ(stock_family(spec), std::nullopt) << write_json(to_node(spec));
  }
}

TEST(HfExport, OtherNetworksArePackagesWithAModellingFile) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    if (stock_family(spec)) continue;
    SCOPED_TRACE(name);
    const test::TempDir dir;
    const ModelData model = test::random_model(spec, 3);
    export_hf(model, dir / "hf", {std::nullopt, 20000});
    EXPECT_TRUE(fs::exists(dir / "hf/model.safetensors.index.json"));
    const Node config = load_json(dir / "hf/config.json");
    EXPECT_EQ(config.find("auto_map")->find("AutoModelForCausalLM")->as_string(),
              "modeling_ashlar.AshlarForCausalLM");
    for (const char* file : {"modeling_ashlar.py", "configuration_ashlar.py"}) {
      EXPECT_EQ(test::read_text(dir / "hf" / file),
                test::read_text(fs::path("export/python") / file));
    }
    ASSERT_TRUE(is_package(dir / "hf"));
    const ModelData back = open_model(dir / "hf");
    EXPECT_EQ(back.spec, spec);
    EXPECT_EQ(weights_sha256(back), weights_sha256(model));
    EXPECT_EQ(back.start_token, model.start_token);
  }
}

TEST(HfExport, TypesAndShards) {
  const test::TempDir dir;
  const ModelData model = test::random_model(test::small_decoder(), 3);
  export_hf(model, dir / "whole");
  EXPECT_FALSE(fs::exists(dir / "whole/model.safetensors.index.json"));
  const int64_t bytes = export_hf(model, dir / "half", {DType::kF16, 8000});
  EXPECT_EQ(2 * bytes, model.weight_bytes());
  const Node index = load_json(dir / "half/model.safetensors.index.json");
  EXPECT_EQ(index.find("metadata")->find("total_size")->as_int(), bytes);
  EXPECT_EQ(load_json(dir / "half/config.json").find("torch_dtype")->as_string(), "float16");
  const ModelData back = open_model(dir / "half");
  for (const auto& [name, t] : back.tensors) {
    ASSERT_EQ(t.encoding(), TensorEncoding::dense(DType::kF16));
    const auto values = to_floats(model.tensor(name));
    double largest = 0;
    for (float x : values) largest = std::max(largest, std::abs(static_cast<double>(x)));
    // Half a unit in the last of 11 bits.
    EXPECT_TRUE(test::within(to_floats(t.load()), values, test::quantized(largest * 0x1p-10)));
  }
  for (const auto& file : fs::directory_iterator(dir / "half")) {
    if (file.path().extension() == ".safetensors") {
      EXPECT_LE(fs::file_size(file.path()), 10000u);
    }
  }
}

TEST(HfExport, GoldenFoldersAreWrittenAsTheyWereRead) {
  for (const auto& folder : test::hf_golden_folders()) {
    SCOPED_TRACE(folder.string());
    const test::TempDir dir;
    export_hf(open_model(folder), dir / "hf");
    const SafetensorsFolder before(folder), after(dir / "hf");
    ASSERT_EQ(before.tensors().size(), after.tensors().size());
    for (const auto& [name, e] : before.tensors()) {
      const SafetensorsFolder::Entry* other = after.find(name);
      ASSERT_NE(other, nullptr) << name;
      EXPECT_EQ(other->info.dtype, e.info.dtype);
      EXPECT_EQ(other->info.shape, e.info.shape);
      EXPECT_TRUE(std::ranges::equal(other->bytes(), e.bytes())) << name;
    }
    EXPECT_EQ(load_json(dir / "hf/config.json").find("model_type")->as_string(),
              load_json(folder / "config.json").find("model_type")->as_string());
  }
}

TEST(HfExport, WhatTheFormatCannotSayIsRefused) {
  const test::TempDir dir;
  const auto refuses = [&](const ModelData& model, const HfExportOptions& options,
                           const std::vector<std::string>& fragments) {
    test::expect_error(ErrorCode::kRequest, fragments,
                       [&] { export_hf(model, dir / "hf", options); });
    EXPECT_TRUE(fs::is_empty(dir.path()));
  };
  ModelData model = test::random_model(test::small_decoder(), 3);
  model.rotation.stacks.resize(1);
  model.rotation.stacks[0].down = true;
  refuses(model, {}, {"rotates", "unrotated"});
  model.rotation = {};
  const std::vector<std::byte> codes(32 * 32), scales(2 * 32);
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const TensorSource dense = model.tensors.at(name);
  model.tensors[name] =
      WeightTensor{name, {32, 32}, QuantTensor{8, codes, scales, {}, 32}, nullptr};
  refuses(model, {}, {name, "8 bits", "unquantized"});
  auto values = to_floats(dense.load());
  values[5] = 1e6F;
  model.tensors[name] = make_dense(name, {32, 32}, values);
  refuses(model, {DType::kF16}, {name, "1000000", "bf16"});
  model.tensors[name] = dense;
  fs::create_directory(dir / "hf");
  test::expect_error(ErrorCode::kRequest, {"exists already"},
                     [&] { export_hf(model, dir / "hf"); });
}

/// 256 bytes, "<s>" and "</s>".
std::string byte_tokenizer() {
  BpeTrainOptions options;
  options.vocab_size = 258;
  options.special_tokens = {"</s>", "<s>"};
  options.threads = 1;
  BpeTrainer trainer(options);
  const std::vector<std::string> documents = {"some text"};
  trainer.add(documents);
  return trainer.train();
}

class HfTokenizer : public testing::Test {
 protected:
  HfTokenizer() {
    model_ = test::random_model(
        test::spec_from_yaml(
            "kind: decoder\nvocab_size: 300\ncontext_length: 64\ndecoder: {d_model: 8, "
            "layers: 1, attention: {heads: 1, head_dim: 8}, ffn: {d_ff: 8}}\n"),
        1);
    model_.tokenizer_json = byte_tokenizer();
    const auto tokenizer = parse_hf_tokenizer(model_.tokenizer_json, "tokenizer.json");
    model_.start_token = tokenizer->find_token("<s>");
    model_.stop_tokens = {*tokenizer->find_token("</s>")};
    model_.chat_template = "{{ messages }}";
  }

  std::optional<int64_t> start_token_with(const std::function<void(Node&)>& config,
                                          bool template_adds_it) {
    const test::TempDir dir;
    export_hf(model_, dir / "hf");
    Node node = load_json(dir / "hf/tokenizer_config.json");
    config(node);
    test::write_text(dir / "hf/tokenizer_config.json", write_json(node));
    if (!template_adds_it) test::write_text(dir / "hf/tokenizer.json", model_.tokenizer_json);
    return import_hf(dir / "hf").start_token;
  }

  ModelData model_;
};

TEST_F(HfTokenizer, TokensAndTemplateComeBack) {
  const test::TempDir dir;
  export_hf(model_, dir / "hf");
  const ModelData back = open_model(dir / "hf");
  EXPECT_EQ(back.start_token, model_.start_token);
  EXPECT_EQ(back.stop_tokens, model_.stop_tokens);
  // Only the post-processor is new: it puts the start token in front.
  const auto before = parse_hf_tokenizer(model_.tokenizer_json, "tokenizer.json");
  const auto after = parse_hf_tokenizer(back.tokenizer_json, "tokenizer.json");
  std::vector<int32_t> ids = before->encode("some text");
  EXPECT_EQ(after->encode("some text"), ids);
  ids.insert(ids.begin(), static_cast<int32_t>(*model_.start_token));
  EXPECT_EQ(after->encode("some text", {.add_special = true}), ids);
  EXPECT_EQ(back.chat_template, model_.chat_template);
  const Node config = load_json(dir / "hf/tokenizer_config.json");
  EXPECT_EQ(config.find("bos_token")->as_string(), "<s>");
  EXPECT_EQ(config.find("eos_token")->as_string(), "</s>");
  EXPECT_EQ(config.find("chat_template")->as_string(), model_.chat_template);
}

TEST_F(HfTokenizer, ATextBeginsWithBosOnlyIfTheTokenizerPutsItThere) {
  const auto drop = [](Node& c) {
    std::erase_if(c.as_map(), [](const auto& entry) { return entry.first == "add_bos_token"; });
  };
  const auto no = [](Node& c) { c.set("add_bos_token", false); };
  const auto yes = [](Node& c) { c.set("add_bos_token", true); };
  EXPECT_EQ(start_token_with(drop, false), std::nullopt);
  EXPECT_EQ(start_token_with(drop, true), model_.start_token);
  EXPECT_EQ(start_token_with(yes, false), model_.start_token);
  EXPECT_EQ(start_token_with(no, true), std::nullopt);
}

TEST_F(HfTokenizer, ATokenizerThatPutsItThereIsLeftAsItIs) {
  const test::TempDir dir;
  export_hf(model_, dir / "once");
  model_.tokenizer_json = test::read_text(dir / "once/tokenizer.json");
  export_hf(model_, dir / "twice");
  EXPECT_EQ(test::read_text(dir / "twice/tokenizer.json"), model_.tokenizer_json);
}

TEST_F(HfTokenizer, OneOfSeveralTemplatesIsTheDefault) {
  const test::TempDir dir;
  export_hf(model_, dir / "hf");
  fs::remove(dir / "hf/chat_template.jinja");
  Node node = load_json(dir / "hf/tokenizer_config.json");
  const Node tools = Node::Map{{"name", "tool_use"}, {"template", "tools"}};
  const Node chat = Node::Map{{"name", "default"}, {"template", "chat"}};
  node.set("chat_template", Node::List{tools, chat});
  test::write_text(dir / "hf/tokenizer_config.json", write_json(node));
  EXPECT_EQ(import_hf(dir / "hf").chat_template, "chat");
  test::write_text(dir / "hf/chat_template.jinja", "file");
  EXPECT_EQ(import_hf(dir / "hf").chat_template, "file");
}

TEST_F(HfTokenizer, ALargerVocabularyThanTheModelsIsRefused) {
  model_ = test::random_model(test::small_decoder(), 1);  // 61 tokens
  const test::TempDir dir;
  export_hf(model_, dir / "hf");
  test::write_text(dir / "hf/tokenizer.json", byte_tokenizer());
  test::expect_error(ErrorCode::kRequest, {"258 tokens", "only 61"},
                     [&] { import_hf(dir / "hf"); });
}

}  // namespace
}  // namespace ashlar

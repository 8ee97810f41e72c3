#include "package/import/hf_model.h"

#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/safetensors_folder.h"
#include "package/import/open_model.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

const fs::path kGolden = "tests/golden/hf";

class HfFolder : public testing::Test {
 protected:
  /// A copy of a folder that `transformers` wrote.
  fs::path copy(const std::string& name) {
    const fs::path to = dir_ / (name + std::to_string(copies_++));
    fs::copy(kGolden / name, to, fs::copy_options::recursive);
    return to;
  }

  static void edit(const fs::path& file, const std::function<void(Node&)>& change) {
    Node node = load_json(file);
    change(node);
    test::write_text(file, write_json(node));
  }

  /// The tensors of model.safetensors as others would write them.
  static void rewrite(const fs::path& folder,
                      const std::function<void(std::map<std::string, WeightTensor>&)>& change) {
    std::map<std::string, WeightTensor> tensors;
    {
      const SafetensorsFolder old(folder);
      for (const auto& [name, e] : old.tensors()) {
        const auto bytes =
            std::make_shared<std::vector<std::byte>>(e.bytes().begin(), e.bytes().end());
        tensors[name] = {name, e.info.shape, DenseTensor{e.info.dtype, *bytes}, bytes};
      }
    }
    change(tensors);
    std::vector<TensorInfo> infos;
    for (const auto& [name, t] : tensors) {
      infos.push_back({name, std::get<DenseTensor>(t.value).dtype, t.shape, 0, 0});
    }
    write_safetensors_folder(folder, infos, INT64_MAX, [&](const std::string& name) {
      return HeldBytes{std::get<DenseTensor>(tensors.at(name).value).data, nullptr};
    });
  }

  static void refuses(ErrorCode code, const fs::path& folder,
                      const std::vector<std::string>& fragments) {
    test::expect_error(code, fragments, [&] { import_hf(folder); });
  }

  const test::TempDir dir_;
  int copies_ = 0;
};

TEST_F(HfFolder, TensorsStayAsTheyAreStored) {
  const ModelData model = import_hf(kGolden / "llama_tied_bf16");
  EXPECT_EQ(model.tensors.at("model.embed_tokens.weight").encoding(),
            TensorEncoding::dense(DType::kBF16));
  EXPECT_TRUE(model.spec.tied_head);
  EXPECT_EQ(model.stop_tokens, (std::vector<int64_t>{1}));
  EXPECT_EQ(model.name, "llama_tied_bf16");
  // Nothing in the folder puts a token in front of a text, whatever bos_token_id says.
  EXPECT_EQ(model.start_token, std::nullopt);
}

TEST_F(HfFolder, GenerationConfigKnowsBetterWhatEndsATurn) {
  const fs::path folder = copy("qwen3");
  edit(folder / "generation_config.json", [](Node& node) {
    node.set("eos_token_id", Node::List{5, 6});
  });
  EXPECT_EQ(import_hf(folder).stop_tokens, (std::vector<int64_t>{5, 6}));
}

TEST_F(HfFolder, TheHubCacheIsReadInItsOwnLayout) {
  // models--org--name: blobs by digest, snapshots of links to them, refs to snapshots.
  const fs::path hub = dir_ / "models--some-org--tiny--model";
  const fs::path snapshot = hub / "snapshots" / "0123abcd";
  fs::create_directories(snapshot);
  fs::create_directories(hub / "blobs");
  fs::create_directories(hub / "refs");
  test::write_text(hub / "refs/main", "0123abcd\n");
  for (const auto& file : fs::directory_iterator(kGolden / "llama_llama3_sharded")) {
    const std::string name = file.path().filename().string();
    fs::copy(file.path(), hub / "blobs" / ("digest-" + name));
    fs::create_symlink("../../blobs/digest-" + name, snapshot / name);
  }
  const std::string expected = weights_sha256(import_hf(kGolden / "llama_llama3_sharded"));
  for (const fs::path& path : {hub, snapshot}) {
    const ModelData model = open_model(path);
    EXPECT_EQ(weights_sha256(model), expected);
    EXPECT_EQ(model.name, "some-org/tiny--model");
  }
  test::write_text(hub / "refs/main", "../../elsewhere");
  refuses(ErrorCode::kData, hub, {"refs/main", "no revision"});
}

TEST_F(HfFolder, LeftoverBuffersAreIgnoredAndNothingElse) {
  const std::vector<float> values = {1, 2};
  const auto add = [&](const std::string& name) {
    return [&, name](std::map<std::string, WeightTensor>& tensors) {
      tensors[name] = make_dense(name, {2}, values);
    };
  };
  const fs::path neox = copy("gpt_neox_parallel");
  const std::string layer = "gpt_neox.layers.0.attention.";
  for (const std::string& name :
       {layer + "bias", layer + "masked_bias", layer + "rotary_emb.inv_freq"}) {
    rewrite(neox, add(name));
  }
  EXPECT_EQ(weights_sha256(import_hf(neox)),
            weights_sha256(import_hf(kGolden / "gpt_neox_parallel")));
  rewrite(neox, add("gpt_neox.layers.0.attention.extra"));
  refuses(ErrorCode::kData, neox,
          {"model.safetensors", "gpt_neox.layers.0.attention.extra", "does not belong"});
  const fs::path llama = copy("qwen3");
  rewrite(llama, add("model.layers.0.self_attn.rotary_emb.inv_freq"));
  import_hf(llama);
  rewrite(llama, add("model.layers.0.attention.bias"));
  refuses(ErrorCode::kData, llama, {"model.layers.0.attention.bias", "does not belong"});
}

TEST_F(HfFolder, MissingAndMisshapenTensors) {
  const fs::path folder = copy("mistral_window");
  edit(folder / "config.json", [](Node& node) { node.set("num_hidden_layers", 3); });
  refuses(ErrorCode::kData, folder, {"model.layers.2.input_layernorm.weight", "is missing"});
  edit(folder / "config.json", [](Node& node) { node.set("num_hidden_layers", 1); });
  refuses(ErrorCode::kData, folder, {"model.layers.1.", "does not belong"});
  const fs::path wide = copy("mistral_window");
  edit(wide / "config.json", [](Node& node) { node.set("intermediate_size", 24); });
  refuses(ErrorCode::kData, wide, {"mlp.gate_proj.weight", "[20, 16]", "needs [24, 16]"});
  const fs::path odd = copy("mistral_window");
  rewrite(odd, [](auto& tensors) {
    WeightTensor& t = tensors.at("model.norm.weight");
    std::get<DenseTensor>(t.value).dtype = DType::kI32;
  });
  refuses(ErrorCode::kData, odd, {"model.norm.weight", "I32", "not supported"});
}

TEST_F(HfFolder, TheHeadIsTiedOrNotAsTheConfigSays) {
  const fs::path tied = copy("llama_tied_bf16");
  edit(tied / "config.json", [](Node& node) { node.set("tie_word_embeddings", false); });
  refuses(ErrorCode::kData, tied, {"lm_head.weight", "is missing", "tie_word_embeddings"});
  const fs::path untied = copy("qwen3");
  edit(untied / "config.json", [](Node& node) { node.set("tie_word_embeddings", true); });
  refuses(ErrorCode::kData, untied, {"lm_head.weight", "another table", "tie_word_embeddings"});
  // Some files of tied models hold the table twice.
  rewrite(untied, [](auto& tensors) {
    tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight");
    tensors["lm_head.weight"].name = "lm_head.weight";
  });
  EXPECT_TRUE(import_hf(untied).spec.tied_head);
}

TEST_F(HfFolder, ShardsAndTheirIndexHaveToAgree) {
  const std::string index = "model.safetensors.index.json";
  const std::string name = "model.norm.weight";
  const auto change = [&](const Node& shard) {
    const fs::path folder = copy("llama_llama3_sharded");
    edit(folder / index, [&](Node& node) {
      Node::Map& map = node.find("weight_map")->as_map();
      std::erase_if(map, [&](const auto& entry) { return entry.first == name; });
      if (!shard.is_null()) map.emplace_back(name, shard);
    });
    return folder;
  };
  refuses(ErrorCode::kData, change({}), {index, name, "not in the index"});
  refuses(ErrorCode::kData, change("model-00001-of-00003.safetensors"), {index, name, "not in"});
  refuses(ErrorCode::kData, change("model-9.safetensors"), {"model-9.safetensors is missing"});
  refuses(ErrorCode::kRequest, change("pytorch_model-1.bin"), {"pytorch_model-1.bin", "pickled"});
  refuses(ErrorCode::kData, change(3), {name, "names no file"});
  for (const char* outside : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""}) {
    refuses(ErrorCode::kRequest, change(outside), {index, "outside the folder"});
  }
  const fs::path cut = copy("llama_llama3_sharded");
  const fs::path shard = cut / "model-00002-of-00003.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  refuses(ErrorCode::kData, cut, {"model-00002-of-00003.safetensors", "truncated"});
  fs::remove(shard);
  refuses(ErrorCode::kData, cut, {"model-00002-of-00003.safetensors is missing"});
}

TEST_F(HfFolder, PicklesAreNeverOpened) {
  const fs::path folder = copy("qwen3");
  fs::remove(folder / "model.safetensors");
  refuses(ErrorCode::kRequest, folder, {"neither model.safetensors"});
  test::write_text(folder / "pytorch_model.bin", "anything");
  refuses(ErrorCode::kRequest, folder, {"pytorch_model.bin", "pickle", "safetensors"});
  const std::string zip(
      "PK\x03\x04"
      "data.pkl",
      12),
      plain(
          "\x80\x02\x8a\x0a"
          "l\xfc\x9c",
          7);
  for (const std::string& bytes : {zip, plain}) {
    for (const char* name : {"model.bin", "model.pt"}) {
      test::write_text(dir_ / name, bytes);
      test::expect_error(ErrorCode::kRequest, {name, "pickle"}, [&] { open_model(dir_ / name); });
    }
  }
}

TEST_F(HfFolder, WhatIsNoModelFolderIsRefused) {
  fs::create_directories(dir_ / "empty");
  refuses(ErrorCode::kRequest, dir_ / "empty", {"no config.json"});
  test::expect_error(ErrorCode::kRequest, {"empty", "neither"},
                     [&] { open_model(dir_ / "empty"); });
  const fs::path folder = copy("qwen3");
  test::write_text(folder / "config.json", "{\"model_type\": ");
  refuses(ErrorCode::kData, folder, {"config.json", "invalid JSON"});
}

// Every file with random bytes overwritten: it is read, or refused with an Error that names the
// folder.
TEST_F(HfFolder, DamagedFilesAreReadOrRefused) {
  const fs::path folder = copy("llama_llama3_sharded");
  const std::vector<std::string> files = {"config.json", "generation_config.json",
                                          "model.safetensors.index.json",
                                          "model-00001-of-00003.safetensors"};
  int refused = 0;
  for (uint64_t round = 0; round < 400; ++round) {
    const Philox rng(20261121, round);
    const fs::path file = folder / files[rng.below(0, files.size())];
    const std::string good = read_file(file);
    std::string bad = good;
    const uint64_t reach = std::min<uint64_t>(bad.size(), 1500);  // a shard's header, mostly
    for (uint64_t i = 0; i <= rng.below(1, 3); ++i) {
      bad[rng.below(10 + 2 * i, reach)] = static_cast<char>(rng.below(11 + 2 * i, 256));
    }
    test::write_text(file, bad);
    try {
      const ModelData model = import_hf(folder);
      for (const auto& [name, t] : model.tensors) t.load();
    } catch (const Error& error) {
      ++refused;
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
    test::write_text(file, good);
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace ashlar

#include <algorithm>
#include <array>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors_folder.h"
#include "package/format/package.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

struct Encoding {
  std::optional<BlockKind> block;
  int bits = 0;
  int64_t group = 0;
};

BlockKind block_kind(NodeReader& reader) {
  constexpr std::array kinds = {BlockKind::kQ4K, BlockKind::kQ5K, BlockKind::kQ6K};
  return kinds[reader.choice("blocks", {"Q4_K", "Q5_K", "Q6_K"})];
}

std::map<std::string, Encoding> read_encodings(const Node* node) {
  std::map<std::string, Encoding> out;
  if (node == nullptr) return out;
  for (const auto& [name, entry] : node->as_map()) {
    NodeReader reader(entry, "ashlar.quantized." + name);
    Encoding e;
    if (entry.is_map() && entry.find("blocks") != nullptr) {
      e.block = block_kind(reader);
      reader.finish();
      out[name] = e;
      continue;
    }
    e.bits = static_cast<int>(reader.integer("bits", 4, 8));
    e.group = reader.integer("group", 1, int64_t{1} << 30);
    reader.choice("order", {"sequential"});
    reader.finish();
    out[name] = e;
  }
  return out;
}

using Entry = SafetensorsFolder::Entry;

const Entry& part(const SafetensorsFolder& weights, const fs::path& path, const std::string& name,
                  DType dtype) {
  const Entry* entry = weights.find(name);
  require(entry != nullptr, ErrorCode::kData, "{}: tensor '{}' is missing", path.string(), name);
  require(entry->info.dtype == dtype, ErrorCode::kData, "{}: tensor '{}' is {}, expected {}",
          path.string(), name, dtype_name(entry->info.dtype), dtype_name(dtype));
  return *entry;
}

WeightTensor quantized_tensor(const std::shared_ptr<const SafetensorsFolder>& weights,
                              const fs::path& path, const std::string& name, const Encoding& e,
                              const std::vector<int64_t>& shape,
                              std::map<std::string, bool>& used) {
  const auto take = [&](const std::string& suffix, DType dtype) {
    used[name + suffix] = true;
    return part(*weights, path, name + suffix, dtype).bytes();
  };
  if (e.block) return {name, shape, BlockTensor{*e.block, take(".blocks", DType::kU8)}, weights};
  QuantTensor q;
  q.bits = e.bits;
  q.group = e.group;
  q.codes = take(".codes", DType::kU8);
  q.scale = take(".scale", DType::kF16);
  if (weights->find(name + ".min") != nullptr) q.min = take(".min", DType::kF16);
  return {name, shape, q, weights};
}

TensorSource dense_tensor(const std::string& name, const Entry& e) {
  return {name, e.info.shape, TensorEncoding::dense(e.info.dtype), [name, e]() -> WeightTensor {
            return {name, e.info.shape, DenseTensor{e.info.dtype, e.bytes()}, e.owner()};
          }};
}

void read_tensors(const fs::path& path, const Node* quantized, ModelData& model) {
  const auto weights = std::make_shared<const SafetensorsFolder>(path);
  const std::map<std::string, Encoding> encodings = read_encodings(quantized);
  std::map<std::string, bool> used;
  for (const ParameterSpec& p : parameters(model.spec)) {
    if (const auto it = encodings.find(p.name); it != encodings.end()) {
      model.tensors[p.name] = quantized_tensor(weights, path, p.name, it->second, p.shape, used);
      continue;
    }
    const Entry* entry = weights->find(p.name);
    require(entry != nullptr, ErrorCode::kData, "{}: tensor '{}' is missing", path.string(),
            p.name);
    used[p.name] = true;
    model.tensors[p.name] = dense_tensor(p.name, *entry);
  }
  for (const auto& [name, entry] : weights->tensors()) {
    require(used.count(name) != 0, ErrorCode::kData,
            "{}: tensor '{}' does not belong to this model", path.string(), name);
  }
}

void read_generation(const fs::path& path, ModelData& model) {
  const Node node = load_json(path);
  const Node* start = node.find("bos_token_id");
  const Node* stop = node.find("eos_token_id");
  require(stop != nullptr, ErrorCode::kData, "{}: eos_token_id is missing", path.string());
  if (start != nullptr && !start->is_null()) model.start_token = start->as_int();
  if (stop->is_int()) {
    model.stop_tokens = {stop->as_int()};
  } else {
    for (const Node& token : stop->as_list()) model.stop_tokens.push_back(token.as_int());
  }
}

}  // namespace

bool is_package(const fs::path& path) {
  const fs::path config = path / "config.json";
  if (!fs::is_regular_file(config)) return false;
  const Node node = load_json(config);
  return node.find("ashlar") != nullptr;
}

ModelData read_package(const fs::path& path) {
  require(fs::is_directory(path), ErrorCode::kRequest, "{}: no such package folder", path.string());
  const fs::path config_path = path / "config.json";
  const Node config = load_json(config_path);
  const Node* ours = config.find("ashlar");
  require(ours != nullptr && ours->is_map(), ErrorCode::kRequest,
          "{}: no `ashlar` object, so this folder is not an Ashlar package", config_path.string());
  NodeReader reader(*ours, "ashlar");
  const int64_t version = reader.integer("format_version", 1, INT64_MAX);
  require(version <= kPackageVersion, ErrorCode::kRequest,
          "{}: package format {} is newer than this program reads ({}): update Ashlar",
          config_path.string(), version, kPackageVersion);
  ModelData model;
  model.spec = model_spec_from_resolved(reader.required("spec"));
  model.rotation = rotation_from_node(reader.required("rotation"), model.spec);
  if (const Node* recipe = reader.optional("recipe")) model.recipe = *recipe;
  NodeReader codec(reader.required("kv_codec"), "ashlar.kv_codec");
  model.kv_codec = {codec.text("key"), codec.text("value")};
  codec.finish();
  const Node* quantized = reader.optional("quantized");
  const std::string digest = reader.text("weights_sha256");
  reader.finish();
  read_generation(path / "generation_config.json", model);
  read_tensors(path, quantized, model);
  if (fs::exists(path / "tokenizer.json")) {
    model.tokenizer_json = read_file(path / "tokenizer.json");
  }
  if (fs::exists(path / "chat_template.jinja")) {
    model.chat_template = read_file(path / "chat_template.jinja");
  }
  if (const Node* name = config.find("_name_or_path"); name != nullptr && name->is_string()) {
    model.name = name->as_string();
  }
  validate(model, path.string());
  const std::string actual = weights_sha256(model);
  require(actual == digest, ErrorCode::kData,
          "{}: weights do not match config.json: SHA-256 is {}, expected {}", path.string(), actual,
          digest);
  return model;
}

}  // namespace ashlar

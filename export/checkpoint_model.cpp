#include "export/checkpoint_model.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "data/tokenizer/chat_template.h"
#include "models/spec/lora.h"

namespace ashlar {
namespace fs = std::filesystem;

bool is_checkpoint(const fs::path& path) {
  return fs::is_directory(path / "checkpoints") || fs::is_regular_file(path / "manifest.json");
}

namespace {

// Frozen parameters have no average: they are their own.
std::vector<float> read_parameter(const CheckpointReader& reader, CheckpointWeights weights,
                                  const ParameterSpec& p) {
  std::vector<float> values(static_cast<size_t>(p.numel()));
  const std::string average = "ema/" + p.name;
  const bool averaged = weights == CheckpointWeights::kAverage && reader.has(average);
  reader.read(averaged ? average : "parameters/" + p.name, values);
  return values;
}

void require_average(const CheckpointReader& reader) {
  const auto names = reader.names();
  require(std::any_of(names.begin(), names.end(),
                      [](const std::string& name) { return name.starts_with("ema/"); }),
          ErrorCode::kRequest, "{}: holds no average of weights; train with `ema:`",
          reader.path().string());
}

// Of a run with `lora:`; its configuration says which matrices have adapters and how they count.
void merge_adapters(const CheckpointReader& reader, CheckpointWeights weights,
                    const std::vector<ParameterSpec>& specs, ModelData& model) {
  const Node* node = reader.manifest().config.find("lora");
  if (node == nullptr) {
    for (const std::string& name : reader.names()) {
      require(!name.starts_with("parameters/") || !name.ends_with(".lora_a"), ErrorCode::kData,
              "{}: holds the adapter {}, but its configuration has no lora", reader.path().string(),
              name);
    }
    return;
  }
  const LoraSpec lora = read_lora(*node, specs);
  for (const LoraAdapter& adapter : lora_adapters(lora, specs)) {
    const ParameterSpec& p = specs[adapter.target];
    model.tensors[p.name] = make_dense(
        p.name, p.shape,
        merge_adapter(read_parameter(reader, weights, p),
                      read_parameter(reader, weights, adapter.down),
                      read_parameter(reader, weights, adapter.up), lora.rank, lora.scale()));
  }
}

}  // namespace

ModelData model_from_checkpoint(const fs::path& path, CheckpointWeights weights) {
  return model_from_checkpoint(CheckpointReader(path), weights);
}

ModelData model_from_checkpoint(const CheckpointReader& reader, CheckpointWeights weights) {
  if (weights == CheckpointWeights::kAverage) require_average(reader);
  ModelData model;
  model.spec = reader.spec();
  model.kv_codec = {"fp32", "fp32"};
  model.start_token = reader.manifest().eos_id;
  model.stop_tokens = {reader.manifest().eos_id};
  if (const fs::path tokenizer = reader.tokenizer_path(); fs::exists(tokenizer)) {
    model.tokenizer_json = read_file(tokenizer);
    model.chat_template = read_chat_template(tokenizer);
  }
  const std::vector<ParameterSpec> specs = parameters(model.spec);
  for (const ParameterSpec& p : specs) {
    model.tensors[p.name] = make_dense(p.name, p.shape, read_parameter(reader, weights, p));
  }
  merge_adapters(reader, weights, specs, model);
  validate(model, reader.path().string());
  return model;
}

}  // namespace ashlar

#include "export/checkpoint_model.h"

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

std::vector<float> read_parameter(const CheckpointReader& reader, const ParameterSpec& p) {
  std::vector<float> values(static_cast<size_t>(p.numel()));
  reader.read("parameters/" + p.name, values);
  return values;
}

// Of a run with `lora:`; its configuration says which matrices have adapters and how they count.
void merge_adapters(const CheckpointReader& reader, const std::vector<ParameterSpec>& specs,
                    ModelData& model) {
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
    model.tensors[p.name] =
        make_dense(p.name, p.shape,
                   merge_adapter(read_parameter(reader, p), read_parameter(reader, adapter.down),
                                 read_parameter(reader, adapter.up), lora.rank, lora.scale()));
  }
}

}  // namespace

ModelData model_from_checkpoint(const fs::path& path) {
  return model_from_checkpoint(CheckpointReader(path));
}

ModelData model_from_checkpoint(const CheckpointReader& reader) {
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
    model.tensors[p.name] = make_dense(p.name, p.shape, read_parameter(reader, p));
  }
  merge_adapters(reader, specs, model);
  validate(model, reader.path().string());
  return model;
}

}  // namespace ashlar

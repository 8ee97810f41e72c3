#include "export/checkpoint_model.h"

#include "core/io/atomic_file.h"
#include "data/tokenizer/chat_template.h"

namespace ashlar {
namespace fs = std::filesystem;

bool is_checkpoint(const fs::path& path) {
  return fs::is_directory(path / "checkpoints") || fs::is_regular_file(path / "manifest.json");
}

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
  for (const ParameterSpec& p : parameters(model.spec)) {
    std::vector<float> values(static_cast<size_t>(p.numel()));
    reader.read("parameters/" + p.name, values);
    model.tensors[p.name] = make_dense(p.name, p.shape, values);
  }
  validate(model, reader.path().string());
  return model;
}

}  // namespace ashlar

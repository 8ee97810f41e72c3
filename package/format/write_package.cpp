#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "package/format/k_quants.h"
#include "package/format/package.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

enum class Part : uint8_t { kData, kCodes, kScale, kMin };

// The tensors of the file: dense ones under their name, quantized ones in one to three parts.
struct Parts {
  std::vector<TensorInfo> infos;
  std::map<std::string, std::pair<std::string, Part>> source;  // of each: tensor and part

  void add(const std::string& tensor, const char* suffix, Part part, DType dtype,
           std::vector<int64_t> shape) {
    infos.push_back({tensor + suffix, dtype, std::move(shape), 0, 0});
    source[tensor + suffix] = {tensor, part};
  }
};

Parts split(const ModelData& model) {
  Parts parts;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const TensorSource& t = model.tensors.at(p.name);
    const TensorEncoding& e = t.encoding();
    if (e.kind == TensorEncoding::Kind::kDense) {
      parts.add(p.name, "", Part::kData, e.dtype, t.shape());
      continue;
    }
    const int64_t rows = t.shape()[0], in = t.shape()[1];
    if (e.kind == TensorEncoding::Kind::kBlocks) {
      parts.add(p.name, ".blocks", Part::kData, DType::kU8, {rows, t.stored_bytes() / rows});
      continue;
    }
    const int64_t groups = ceil_div(in, e.group);
    parts.add(p.name, ".codes", Part::kCodes, DType::kU8, {rows, quant_row_bytes(e.bits, in)});
    parts.add(p.name, ".scale", Part::kScale, e.dtype, {rows, groups});
    if (e.has_min) parts.add(p.name, ".min", Part::kMin, e.dtype, {rows, groups});
  }
  return parts;
}

std::span<const std::byte> bytes_of(const WeightTensor& t, Part part) {
  if (const auto* dense = std::get_if<DenseTensor>(&t.value)) return dense->data;
  if (const auto* blocks = std::get_if<BlockTensor>(&t.value)) return blocks->data;
  const auto& q = std::get<QuantTensor>(t.value);
  return part == Part::kCodes ? q.codes : part == Part::kScale ? q.scale : q.min;
}

// One tensor in memory at a time.
void write_weights(const ModelData& model, const fs::path& path) {
  const Parts parts = split(model);
  SafetensorsWriter writer(path, parts.infos, {{"format", "pt"}});
  std::optional<WeightTensor> tensor;
  for (const TensorInfo& info : writer.layout()) {
    const auto& [name, part] = parts.source.at(info.name);
    if (!tensor || tensor->name != name) {
      tensor.reset();
      tensor = model.tensor(name);
    }
    writer.write_next(bytes_of(*tensor, part));
  }
  writer.commit();
}

}  // namespace

Node package_object(const ModelData& model) {
  Node node = Node::map();
  node.set("format_version", kPackageVersion);
  node.set("spec", to_node(model.spec));
  node.set("rotation", to_node(model.rotation));
  if (!model.recipe.is_null()) node.set("recipe", model.recipe);
  node.set("kv_codec", Node::Map{{"key", model.kv_codec.key}, {"value", model.kv_codec.value}});
  Node quantized = Node::map();
  for (const auto& [name, t] : model.tensors) {
    if (!t.quantized()) continue;
    const TensorEncoding& e = t.encoding();
    if (e.kind == TensorEncoding::Kind::kBlocks) {
      quantized.set(name, Node::Map{{"blocks", block_name(e.block)}});
      continue;
    }
    require(e.dtype == DType::kF16, ErrorCode::kInternal,
            "tensor '{}': packages hold fp16 parameters", name);
    quantized.set(name, Node::Map{{"bits", e.bits}, {"group", e.group}, {"order", "sequential"}});
  }
  if (!quantized.as_map().empty()) node.set("quantized", std::move(quantized));
  node.set("weights_sha256", weights_sha256(model));
  return node;
}

Node hf_rope_scaling(const RopeScaling& s) {
  switch (s.kind) {
    case RopeScalingKind::kNone:
      return {};
    case RopeScalingKind::kLinear:
      return Node::Map{{"rope_type", "linear"}, {"factor", s.factor}};
    case RopeScalingKind::kYarn:
      return Node::Map{{"rope_type", "yarn"},
                       {"factor", s.factor},
                       {"original_max_position_embeddings", s.original_context},
                       {"beta_fast", s.beta_fast},
                       {"beta_slow", s.beta_slow}};
    case RopeScalingKind::kLlama3:
      return Node::Map{{"rope_type", "llama3"},
                       {"factor", s.factor},
                       {"original_max_position_embeddings", s.original_context},
                       {"low_freq_factor", s.low_freq_factor},
                       {"high_freq_factor", s.high_freq_factor}};
  }
  return {};
}

Node hf_stop_tokens(const ModelData& model) {
  if (model.stop_tokens.size() == 1) return model.stop_tokens[0];
  Node list = Node::list();
  for (int64_t token : model.stop_tokens) list.push(token);
  return list;
}

const char* hf_torch_dtype(const ModelData& model) {
  const std::string table = parameters(model.spec).front().name;
  const DType type = model.tensors.at(table).encoding().dtype;
  return type == DType::kF32 ? "float32" : type == DType::kF16 ? "float16" : "bfloat16";
}

namespace {

// What transformers' LlamaForCausalLM can be told.
bool is_llama_layer(const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  return layer.norm.kind == NormKind::kRmsNorm && layer.residual == ResidualKind::kSequential &&
         layer.ffn.kind == FfnKind::kSwiGlu && !a.latent() && a.rope.dim == a.head_dim &&
         a.window == 0 && !a.qk_norm && !a.sinks && a.bias != BiasKind::kQkv && !a.separate_kv_norm;
}

// Keys of transformers' LlamaConfig.
void add_llama_keys(const ModelData& model, Node& config) {
  const StackSpec& stack = model.spec.stacks[0];
  const LayerSpec& layer = stack.layers[0];
  config.set("model_type", "llama");
  config.set("architectures", Node::List{"LlamaForCausalLM"});
  config.set("hidden_size", stack.d_model);
  config.set("intermediate_size", layer.ffn.d_ff);
  config.set("num_hidden_layers", static_cast<int64_t>(stack.layers.size()));
  config.set("num_attention_heads", layer.attention.heads);
  config.set("num_key_value_heads", layer.attention.kv_heads);
  config.set("head_dim", layer.attention.head_dim);
  config.set("rms_norm_eps", layer.norm.eps);
  config.set("rope_theta", layer.attention.rope.theta);
  if (layer.attention.rope.scaling.kind != RopeScalingKind::kNone) {
    config.set("rope_scaling", hf_rope_scaling(layer.attention.rope.scaling));
  }
  config.set("max_position_embeddings", model.spec.context_length);
  config.set("hidden_act", "silu");
  config.set("attention_bias", layer.attention.bias == BiasKind::kAll);
  config.set("mlp_bias", layer.ffn.bias);
  config.set("torch_dtype", hf_torch_dtype(model));
}

}  // namespace

bool is_plain_llama(const ModelData& model) {
  const ModelSpec& spec = model.spec;
  if (spec.kind != ModelKind::kDecoder || model.rotation.any_online()) return false;
  const StackSpec& stack = spec.stacks[0];
  for (size_t i = 0; i < stack.layers.size(); ++i) {
    LayerSpec alike = stack.layers[0];
    alike.kv_owner = static_cast<int64_t>(i);
    if (stack.layers[i] != alike || !is_llama_layer(alike)) return false;
  }
  if (spec.logit_softcap > 0) return false;
  if (stack.final_norm != stack.layers[0].norm) return false;
  for (const auto& [name, t] : model.tensors) {
    if (t.quantized()) return false;
  }
  return true;
}

void write_package(const ModelData& model, const fs::path& path) {
  validate(model, path.string());
  AtomicFolder folder(path);
  Node config = Node::map();
  if (is_plain_llama(model)) {
    add_llama_keys(model, config);
  } else {
    config.set("model_type", "ashlar");
  }
  config.set("vocab_size", model.spec.vocab_size);
  config.set("tie_word_embeddings", model.spec.tied_head);
  if (model.start_token) config.set("bos_token_id", *model.start_token);
  config.set("eos_token_id", hf_stop_tokens(model));
  if (!model.name.empty()) config.set("_name_or_path", model.name);
  config.set("ashlar", package_object(model));
  write_file_atomically(folder.staging() / "config.json", write_json(config, 2) + "\n");
  Node generation = Node::map();
  if (model.start_token) generation.set("bos_token_id", *model.start_token);
  generation.set("eos_token_id", hf_stop_tokens(model));
  write_file_atomically(folder.staging() / "generation_config.json",
                        write_json(generation, 2) + "\n");
  if (!model.tokenizer_json.empty()) {
    write_file_atomically(folder.staging() / "tokenizer.json", model.tokenizer_json);
  }
  if (!model.chat_template.empty()) {
    write_file_atomically(folder.staging() / "chat_template.jinja", model.chat_template);
  }
  write_weights(model, folder.staging() / "model.safetensors");
  folder.commit();
}

}  // namespace ashlar

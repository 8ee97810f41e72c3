#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "package/format/package.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

// The tensors of the file: dense ones under their name, quantized ones in two or three parts.
struct Parts {
  std::vector<TensorInfo> infos;
  std::map<std::string, std::span<const std::byte>> bytes;

  void add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           std::span<const std::byte> data) {
    infos.push_back({name, dtype, std::move(shape), 0, 0});
    bytes[name] = data;
  }
};

Parts split(const ModelData& model) {
  Parts parts;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const WeightTensor& t = model.tensor(p.name);
    if (const auto* dense = std::get_if<DenseTensor>(&t.value)) {
      parts.add(p.name, dense->dtype, t.shape, dense->data);
      continue;
    }
    const auto& q = std::get<QuantTensor>(t.value);
    const int64_t rows = t.shape[0];
    const auto columns = [rows](std::span<const std::byte> b, int64_t width) {
      return static_cast<int64_t>(b.size()) / width / rows;
    };
    parts.add(p.name + ".codes", DType::kU8, {rows, columns(q.codes, 1)}, q.codes);
    parts.add(p.name + ".scale", DType::kF16, {rows, columns(q.scale, 2)}, q.scale);
    if (!q.min.empty()) {
      parts.add(p.name + ".min", DType::kF16, {rows, columns(q.min, 2)}, q.min);
    }
  }
  return parts;
}

void write_weights(const ModelData& model, const fs::path& path) {
  const Parts parts = split(model);
  SafetensorsWriter writer(path, parts.infos, {{"format", "pt"}});
  for (const TensorInfo& info : writer.layout()) writer.write_next(parts.bytes.at(info.name));
  writer.commit();
}

Node ashlar_object(const ModelData& model) {
  Node node = Node::map();
  node.set("format_version", kPackageVersion);
  node.set("spec", to_node(model.spec));
  node.set("rotation", to_node(model.rotation));
  if (!model.recipe.is_null()) node.set("recipe", model.recipe);
  node.set("kv_codec", Node::Map{{"key", model.kv_codec.key}, {"value", model.kv_codec.value}});
  Node quantized = Node::map();
  for (const auto& [name, t] : model.tensors) {
    if (!t.quantized()) continue;
    const auto& q = std::get<QuantTensor>(t.value);
    quantized.set(name, Node::Map{{"bits", q.bits}, {"group", q.group}, {"order", "sequential"}});
  }
  if (!quantized.as_map().empty()) node.set("quantized", std::move(quantized));
  node.set("weights_sha256", weights_sha256(model));
  return node;
}

Node llama_rope_scaling(const RopeScaling& s) {
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
    config.set("rope_scaling", llama_rope_scaling(layer.attention.rope.scaling));
  }
  config.set("max_position_embeddings", model.spec.context_length);
  config.set("hidden_act", "silu");
  config.set("attention_bias", layer.attention.bias == BiasKind::kAll);
  config.set("mlp_bias", layer.ffn.bias);
  const auto& table = model.tensor(parameter_name(stack, ParameterRole::kEmbedding));
  const DType dtype = std::get<DenseTensor>(table.value).dtype;
  config.set("torch_dtype", dtype == DType::kF32   ? "float32"
                            : dtype == DType::kF16 ? "float16"
                                                   : "bfloat16");
}

Node stop_node(const ModelData& model) {
  if (model.stop_tokens.size() == 1) return model.stop_tokens[0];
  Node list = Node::list();
  for (int64_t token : model.stop_tokens) list.push(token);
  return list;
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
  config.set("bos_token_id", model.start_token);
  config.set("eos_token_id", stop_node(model));
  config.set("ashlar", ashlar_object(model));
  write_file_atomically(folder.staging() / "config.json", write_json(config, 2) + "\n");
  const Node generation =
      Node::Map{{"bos_token_id", model.start_token}, {"eos_token_id", stop_node(model)}};
  write_file_atomically(folder.staging() / "generation_config.json",
                        write_json(generation, 2) + "\n");
  if (!model.tokenizer_json.empty()) {
    write_file_atomically(folder.staging() / "tokenizer.json", model.tokenizer_json);
  }
  write_weights(model, folder.staging() / "model.safetensors");
  folder.commit();
}

}  // namespace ashlar

#include "export/hf.h"

#include <cmath>
#include <cstring>
#include <functional>

#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors_folder.h"
#include "data/tokenizer/hf_json.h"
#include "export/hf_config_json.h"
#include "export/hf_python.h"
#include "package/format/package.h"
#include "package/import/hf_names.h"

namespace ashlar {
namespace fs = std::filesystem;
namespace {

void check(const ModelData& model) {
  require(!model.rotation.any_online(), ErrorCode::kRequest,
          "the model rotates activations while it runs, which a Hugging Face folder cannot say: "
          "export the unrotated model");
  for (const auto& [name, t] : model.tensors) {
    require(!t.quantized(), ErrorCode::kRequest,
            "tensor '{}' is quantized ({}), which a Hugging Face folder cannot say: export the "
            "unquantized model",
            name, t.encoding().description());
  }
}

WeightTensor convert(const TensorSource& source, DType type) {
  const std::vector<float> values = to_floats(source.load());
  if (type == DType::kF16) {
    for (float x : values) {
      require(!std::isfinite(x) || std::isfinite(half_to_float(float_to_half(x))),
              ErrorCode::kRequest, "tensor '{}': {} is beyond the range of fp16: use --type bf16",
              source.name(), x);
    }
  }
  return make_dense(source.name(), source.shape(), values, type);
}

// The same model with every tensor stored as `type`, converted when asked for.
ModelData with_type(ModelData model, DType type) {
  for (auto& [name, t] : model.tensors) {
    if (t.encoding() == TensorEncoding::dense(type)) continue;
    t = TensorSource(name, t.shape(), TensorEncoding::dense(type),
                     [t, type] { return convert(t, type); });
  }
  return model;
}

HeldBytes held(const TensorSource& source) {
  const auto tensor = std::make_shared<const WeightTensor>(source.load());
  return {std::get<DenseTensor>(tensor->value).data, tensor};
}

// [q, k, v] of head 0, then of head 1, ...
HeldBytes fuse(const std::vector<TensorSource>& parts, int64_t heads) {
  std::vector<HeldBytes> sources;
  for (const TensorSource& part : parts) sources.push_back(held(part));
  const size_t slice = sources[0].bytes.size() / static_cast<size_t>(heads);
  const auto out = std::make_shared<std::vector<std::byte>>(3 * slice * static_cast<size_t>(heads));
  for (size_t h = 0; h < static_cast<size_t>(heads); ++h) {
    for (size_t p = 0; p < 3; ++p) {
      std::memcpy(out->data() + (3 * h + p) * slice, sources[p].bytes.data() + h * slice, slice);
    }
  }
  return {*out, out};
}

// The files' tensors under the names of the target.
struct Tensors {
  std::vector<TensorInfo> infos;
  std::map<std::string, std::function<HeldBytes()>> bytes;

  void add(const std::string& name, const TensorSource& like, std::vector<int64_t> shape,
           std::function<HeldBytes()> make) {
    infos.push_back({name, like.encoding().dtype, std::move(shape), 0, 0});
    bytes[name] = std::move(make);
  }
};

void add_fused(const ModelData& model, const std::vector<ParameterSpec>& all, HfFamily family,
               const ParameterSpec& query, const std::string& name, Tensors& out) {
  std::vector<TensorSource> parts(3);
  for (const ParameterSpec& p : all) {
    const HfName theirs = hf_name(family, p);
    if (theirs.name == name) parts[static_cast<size_t>(theirs.part)] = model.tensors.at(p.name);
  }
  for (const TensorSource& part : parts) {
    require(part.encoding() == parts[0].encoding(), ErrorCode::kRequest,
            "'{}' and '{}' are stored in different types, but GPT-NeoX keeps them in one tensor: "
            "choose a --type",
            parts[0].name(), part.name());
  }
  std::vector<int64_t> shape = query.shape;
  shape[0] *= 3;
  const int64_t heads = model.spec.stacks[0].layers[0].attention.heads;
  out.add(name, parts[0], shape, [parts, heads] { return fuse(parts, heads); });
}

Tensors tensors_for(const ModelData& model, std::optional<HfFamily> family) {
  Tensors out;
  const std::vector<ParameterSpec> all = parameters(model.spec);
  for (const ParameterSpec& p : all) {
    const HfName theirs = family ? hf_name(*family, p) : HfName{p.name};
    if (theirs.part > 0) continue;  // written with part 0
    if (theirs.part == 0) {
      add_fused(model, all, *family, p, theirs.name, out);
      continue;
    }
    const TensorSource& source = model.tensors.at(p.name);
    out.add(theirs.name, source, p.shape, [source] { return held(source); });
  }
  return out;
}

// A network of our own: what tools look for beside the `ashlar` object.
Node remote_config(const ModelData& model) {
  const StackSpec& stack = model.spec.token_stack();
  return Node::Map{
      {"architectures", Node::List{"AshlarForCausalLM"}},
      {"model_type", "ashlar"},
      {"auto_map", Node::Map{{"AutoConfig", "configuration_ashlar.AshlarConfig"},
                             {"AutoModelForCausalLM", "modeling_ashlar.AshlarForCausalLM"}}},
      {"hidden_size", stack.d_model},
      {"num_hidden_layers", static_cast<int64_t>(stack.layers.size())},
      {"num_attention_heads", stack.layers[0].attention.heads},
      {"max_position_embeddings", model.spec.context_length},
      {"ashlar", package_object(model)}};
}

void write_config(const ModelData& model, std::optional<HfFamily> family, const fs::path& folder) {
  Node config = family ? stock_config(*family, model.spec) : remote_config(model);
  config.set("vocab_size", model.spec.vocab_size);
  config.set("tie_word_embeddings", model.spec.tied_head);
  config.set("torch_dtype", hf_torch_dtype(model));
  Node generation = Node::map();
  for (Node* node : {&config, &generation}) {
    node->set("bos_token_id", model.start_token ? Node(*model.start_token) : Node());
    // An empty list, not null: the family's own default would end texts.
    node->set("eos_token_id", hf_stop_tokens(model));
  }
  if (!model.name.empty()) config.set("_name_or_path", model.name);
  write_file_atomically(folder / "config.json", write_json(config, 2) + "\n");
  write_file_atomically(folder / "generation_config.json", write_json(generation, 2) + "\n");
}

// tokenizer.json whose post-processor puts `start` in front of every text: transformers looks
// nowhere else.
std::string with_start(const std::string& json, const Tokenizer& tokenizer, int32_t start) {
  const std::vector<int32_t> around = tokenizer.encode("", {.add_special = true});
  if (!around.empty() && around.front() == start) return json;
  Node root = parse_json(json, "tokenizer.json");
  const std::string text = tokenizer.token_bytes(start);
  const auto piece = [](const char* kind, const std::string& id, int64_t type) {
    return Node(Node::Map{{kind, Node::Map{{"id", id}, {"type_id", type}}}});
  };
  const Node begin = piece("SpecialToken", text, 0), first = piece("Sequence", "A", 0);
  const Node adds =
      Node::Map{{"id", text}, {"ids", Node::List{start}}, {"tokens", Node::List{text}}};
  Node processors = Node::list();
  const Node* present = root.find("post_processor");
  if (present != nullptr && !present->is_null()) processors.push(*present);
  processors.push(Node::Map{{"type", "TemplateProcessing"},
                            {"single", Node::List{begin, first}},
                            {"pair", Node::List{begin, first, piece("Sequence", "B", 1)}},
                            {"special_tokens", Node::Map{{text, adds}}}});
  root.set("post_processor", Node::Map{{"type", "Sequence"}, {"processors", processors}});
  return write_json(root, 2);
}

void write_tokenizer(const ModelData& model, const fs::path& folder) {
  if (!model.chat_template.empty()) {
    write_file_atomically(folder / "chat_template.jinja", model.chat_template);
  }
  if (model.tokenizer_json.empty()) return;
  const auto tokenizer = parse_hf_tokenizer(model.tokenizer_json, "tokenizer.json");
  // A Block Transformer puts its block of start tokens there by itself.
  const bool begins =
      model.start_token && !model.spec.block && *model.start_token < tokenizer->vocab_size();
  write_file_atomically(folder / "tokenizer.json",
                        begins ? with_start(model.tokenizer_json, *tokenizer,
                                            static_cast<int32_t>(*model.start_token))
                               : model.tokenizer_json);
  Node config = Node::Map{{"tokenizer_class", "PreTrainedTokenizerFast"},
                          {"model_max_length", model.spec.context_length},
                          {"clean_up_tokenization_spaces", false},
                          {"add_bos_token", begins}};
  const auto name = [&](const char* key, int64_t id) {
    if (id < tokenizer->vocab_size()) {
      config.set(key, tokenizer->token_bytes(static_cast<int32_t>(id)));
    }
  };
  if (model.start_token) name("bos_token", *model.start_token);
  if (!model.stop_tokens.empty()) name("eos_token", model.stop_tokens[0]);
  if (!model.chat_template.empty()) config.set("chat_template", model.chat_template);
  write_file_atomically(folder / "tokenizer_config.json", write_json(config, 2) + "\n");
}

}  // namespace

int64_t export_hf(const ModelData& source, const fs::path& path, const HfExportOptions& options) {
  check(source);
  const ModelData model = options.type ? with_type(source, *options.type) : source;
  validate(model, path.string());
  const std::optional<HfFamily> family = stock_family(model.spec);
  AtomicFolder folder(path);
  write_config(model, family, folder.staging());
  write_tokenizer(model, folder.staging());
  if (!family) {
    for (const PythonFile& file : kHfPythonFiles) {
      write_file_atomically(folder.staging() / file.name, file.text);
    }
  }
  const Tensors tensors = tensors_for(model, family);
  write_safetensors_folder(folder.staging(), tensors.infos, options.shard_bytes,
                           [&](const std::string& name) { return tensors.bytes.at(name)(); });
  folder.commit();
  return model.weight_bytes();
}

}  // namespace ashlar

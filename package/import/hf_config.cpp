#include "package/import/hf_config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 20;
constexpr int64_t kMaxContext = int64_t{1} << 30;

struct Family {
  HfFamily family;
  const char* model_type;
  const char* architecture;
};
constexpr Family kFamilies[] = {
    {HfFamily::kLlama, "llama", "LlamaForCausalLM"},
    {HfFamily::kMistral, "mistral", "MistralForCausalLM"},
    {HfFamily::kQwen2, "qwen2", "Qwen2ForCausalLM"},
    {HfFamily::kQwen3, "qwen3", "Qwen3ForCausalLM"},
    {HfFamily::kGptNeox, "gpt_neox", "GPTNeoXForCausalLM"},
};

// Keys that change the computation in a way no supported class knows.
constexpr const char* kRefusedKeys[] = {
    "quantization_config", "num_local_experts",      "num_experts",
    "n_routed_experts",    "attn_logit_softcapping", "final_logit_softcapping",
};

// A map of a JSON file in which null means absent and unknown keys are somebody else's.
class Keys {
 public:
  Keys(const Node& node, std::string path) : node_(node), path_(std::move(path)) {}

  const Node* find(const char* key) const {
    const Node* value = node_.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  bool has(const char* key) const { return node_.find(key) != nullptr; }
  [[noreturn]] void refuse(const char* key, const std::string& reason) const {
    const Node* value = node_.find(key);
    fail_at(value != nullptr ? *value : node_, path_ + key, reason);
  }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    const Node* value = find(key);
    if (value == nullptr) refuse(key, "is missing");
    if (!value->is_int())
      refuse(key, fmt::format("expected an integer, found {}", value->kind_name()));
    const int64_t n = value->as_int();
    if (n < low || n > high) refuse(key, fmt::format("{} is not in {}..{}", n, low, high));
    return n;
  }
  int64_t integer_or(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    return find(key) == nullptr ? fallback : integer(key, low, high);
  }
  double number(const char* key, double low, double high) const {
    const Node* value = find(key);
    if (value == nullptr) refuse(key, "is missing");
    if (!value->is_int() && !value->is_double()) {
      refuse(key, fmt::format("expected a number, found {}", value->kind_name()));
    }
    const double x = value->as_double();
    if (!(x >= low && x <= high)) refuse(key, fmt::format("{} is not in {}..{}", x, low, high));
    return x;
  }
  double number_or(const char* key, double fallback, double low, double high) const {
    return find(key) == nullptr ? fallback : number(key, low, high);
  }
  bool boolean_or(const char* key, bool fallback) const {
    const Node* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_bool())
      refuse(key, fmt::format("expected true or false, found {}", value->kind_name()));
    return value->as_bool();
  }
  std::string text_or(const char* key, const std::string& fallback) const {
    const Node* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string())
      refuse(key, fmt::format("expected a text, found {}", value->kind_name()));
    return value->as_string();
  }

 private:
  const Node& node_;
  std::string path_;
};

HfFamily read_family(const Keys& config) {
  const std::string type = config.text_or("model_type", "");
  std::vector<std::string> known;
  for (const Family& f : kFamilies) {
    known.push_back(f.model_type);
    if (type != f.model_type) continue;
    const Node* architectures = config.find("architectures");
    if (architectures == nullptr) return f.family;
    if (!architectures->is_list()) config.refuse("architectures", "expected a list");
    for (const Node& name : architectures->as_list()) {
      if (!name.is_string() || name.as_string() != f.architecture) {
        config.refuse("architectures",
                      fmt::format("{} is no language model of type {}: only {} is supported",
                                  name.is_string() ? name.as_string() : name.kind_name(), type,
                                  f.architecture));
      }
    }
    return f.family;
  }
  config.refuse("model_type", type.empty() ? std::string("is missing")
                                           : fmt::format("'{}' is not supported: use one of {}",
                                                         type, fmt::join(known, ", ")));
}

RopeScaling read_scaling(const Keys& rope, const std::string& type, int64_t context) {
  RopeScaling s;
  if (type == "default") return s;
  const bool yarn = type == "yarn";
  if (type == "linear") s.kind = RopeScalingKind::kLinear;
  if (type == "llama3") s.kind = RopeScalingKind::kLlama3;
  if (yarn) s.kind = RopeScalingKind::kYarn;
  if (s.kind == RopeScalingKind::kNone) {
    rope.refuse(
        rope.find("rope_type") != nullptr ? "rope_type" : "type",
        fmt::format("'{}' is not supported: use one of default, linear, llama3, yarn", type));
  }
  s.factor = rope.number("factor", 1.0, 1e6);
  if (s.kind == RopeScalingKind::kLinear) return s;
  s.original_context = rope.integer_or("original_max_position_embeddings", context, 1, kMaxContext);
  if (yarn) {
    s.beta_fast = rope.number_or("beta_fast", s.beta_fast, 1e-3, 1e6);
    s.beta_slow = rope.number_or("beta_slow", s.beta_slow, 1e-3, 1e6);
    if (s.beta_fast <= s.beta_slow) rope.refuse("beta_fast", "must exceed beta_slow");
    for (const char* key : {"mscale", "mscale_all_dim"}) {
      if (rope.find(key) != nullptr) rope.refuse(key, "is not supported");
    }
    if (!rope.boolean_or("truncate", true)) rope.refuse("truncate", "false is not supported");
    const double usual = 0.1 * std::log(s.factor) + 1;
    // The files round it to a few digits.
    if (std::abs(rope.number_or("attention_factor", usual, 0, 1e6) - usual) > 1e-6 * usual) {
      rope.refuse("attention_factor",
                  fmt::format("only 0.1·ln(factor) + 1 = {} is supported", usual));
    }
    return s;
  }
  s.low_freq_factor = rope.number("low_freq_factor", 1e-3, 1e6);
  s.high_freq_factor = rope.number("high_freq_factor", 1e-3, 1e6);
  if (s.high_freq_factor <= s.low_freq_factor) {
    rope.refuse("high_freq_factor", "must exceed low_freq_factor");
  }
  return s;
}

// transformers 5 keeps everything in `rope_parameters`; 4 has `rope_theta` (GPT-NeoX:
// `rotary_emb_base` and `rotary_pct`) beside a `rope_scaling` that is null when nothing is scaled.
RopeSpec read_rope(const Keys& config, HfFamily family, int64_t head_dim, int64_t context) {
  const bool neox = family == HfFamily::kGptNeox;
  const char* section =
      config.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  static const Node kEmpty = Node::map();
  const Node* node = config.find(section);
  if (node != nullptr && !node->is_map()) config.refuse(section, "expected a map");
  const Keys rope(node != nullptr ? *node : kEmpty, std::string(section) + ".");
  if (node != nullptr) {
    for (const auto& [key, value] : node->as_map()) {
      if (value.is_map())
        config.refuse(section, fmt::format("'{}': RoPE by layer type is not supported", key));
    }
  }
  const char* theta_key = neox ? "rotary_emb_base" : "rope_theta";
  const char* share_key = neox ? "rotary_pct" : "partial_rotary_factor";
  RopeSpec out;
  out.theta =
      rope.number_or("rope_theta", config.number_or(theta_key, 10000.0, 1.0, 1e12), 1.0, 1e12);
  if (neox && config.find("rope_theta") != nullptr &&
      config.number("rope_theta", 1.0, 1e12) != out.theta) {
    config.refuse("rope_theta", fmt::format("contradicts {} = {}", theta_key, out.theta));
  }
  const double share = rope.number_or("partial_rotary_factor",
                                      config.number_or(share_key, neox ? 0.25 : 1.0, 0, 1), 0, 1);
  out.dim = static_cast<int64_t>(static_cast<double>(head_dim) * share);
  if (!neox && out.dim != head_dim) {
    config.refuse(share_key, fmt::format("{} is not supported in this architecture", share));
  }
  if (out.dim % 2 != 0)
    config.refuse(share_key, fmt::format("{} dimensions turn, an odd number", out.dim));
  out.scaling =
      read_scaling(rope, rope.text_or("rope_type", rope.text_or("type", "default")), context);
  return out;
}

// Window of every layer; 0 where it sees everything.
std::vector<int64_t> read_windows(const Keys& config, HfFamily family, int64_t layers) {
  const bool mistral = family == HfFamily::kMistral;
  const bool qwen = family == HfFamily::kQwen2 || family == HfFamily::kQwen3;
  int64_t window = 0;
  if (mistral || (qwen && config.boolean_or("use_sliding_window", false))) {
    // An explicit null turns it off; only a missing key has the library's value.
    window = config.has("sliding_window") && config.find("sliding_window") == nullptr
                 ? 0
                 : config.integer_or("sliding_window", 4096, 1, kMaxContext);
  }
  const int64_t first = qwen ? config.integer_or("max_window_layers", 28, 0, kMaxSize) : 0;
  std::vector<int64_t> windows;
  for (int64_t l = 0; l < layers; ++l) windows.push_back(l >= first ? window : 0);
  const Node* types = config.find("layer_types");
  if (types == nullptr) return windows;
  if (!types->is_list() || static_cast<int64_t>(types->as_list().size()) != layers) {
    config.refuse("layer_types", fmt::format("expected one entry for each of {} layers", layers));
  }
  for (int64_t l = 0; l < layers; ++l) {
    const Node& type = types->as_list()[static_cast<size_t>(l)];
    const std::string name = type.is_string() ? type.as_string() : type.kind_name();
    const bool sliding = name == "sliding_attention";
    if (!sliding && name != "full_attention") {
      config.refuse("layer_types", fmt::format("'{}' is not supported", name));
    }
    int64_t& own = windows[static_cast<size_t>(l)];
    if (sliding && window == 0)
      config.refuse("layer_types", "sliding_attention without a sliding_window");
    if (!qwen && sliding != (own > 0)) {
      config.refuse("layer_types",
                    fmt::format("layers of one {} are all alike", hf_model_type(family)));
    }
    own = sliding ? window : 0;
  }
  return windows;
}

AttentionSpec read_attention(const Keys& config, HfFamily family, int64_t width, int64_t context) {
  const bool neox = family == HfFamily::kGptNeox;
  AttentionSpec a;
  a.heads = config.integer("num_attention_heads", 1, 4096);
  a.kv_heads = neox ? a.heads
                    : config.integer_or("num_key_value_heads",
                                        family == HfFamily::kMistral ? 8 : a.heads, 1, 4096);
  if (a.heads % a.kv_heads != 0) {
    config.refuse("num_key_value_heads",
                  fmt::format("{} does not divide num_attention_heads = {}", a.kv_heads, a.heads));
  }
  const bool own_width =
      !neox && (config.find("head_dim") != nullptr || family == HfFamily::kQwen3);
  if (own_width) {
    a.head_dim = config.integer_or("head_dim", 128, 1, 4096);
  } else {
    if (width % a.heads != 0) {
      config.refuse("num_attention_heads",
                    fmt::format("{} does not divide hidden_size = {}", a.heads, width));
    }
    a.head_dim = width / a.heads;
  }
  a.rope = read_rope(config, family, a.head_dim, context);
  a.qk_norm = family == HfFamily::kQwen3;
  if (family == HfFamily::kQwen2) {
    a.bias = BiasKind::kQkv;
  } else if (family != HfFamily::kMistral && config.boolean_or("attention_bias", neox)) {
    a.bias = BiasKind::kAll;
  }
  return a;
}

FfnSpec read_ffn(const Keys& config, HfFamily family) {
  const bool neox = family == HfFamily::kGptNeox;
  FfnSpec ffn;
  ffn.kind = neox ? FfnKind::kGelu : FfnKind::kSwiGlu;
  ffn.d_ff = config.integer("intermediate_size", 1, kMaxSize);
  ffn.bias = neox || (family == HfFamily::kLlama && config.boolean_or("mlp_bias", false));
  const std::string usual = neox ? "gelu" : "silu";
  const std::string name = config.text_or("hidden_act", usual);
  if (name != usual && !(name == "swish" && !neox)) {
    config.refuse("hidden_act",
                  fmt::format("'{}' is not supported: {} has {}{}", name, hf_model_type(family),
                              usual, neox ? " (the exact one)" : ""));
  }
  return ffn;
}

}  // namespace

const char* hf_model_type(HfFamily family) {
  return kFamilies[static_cast<size_t>(family)].model_type;
}

const char* hf_architecture(HfFamily family) {
  return kFamilies[static_cast<size_t>(family)].architecture;
}

std::vector<int64_t> read_stop_tokens(const Node& config) {
  const Node* stop = config.find("eos_token_id");
  if (stop == nullptr || stop->is_null()) return {};
  if (stop->is_int()) return {stop->as_int()};
  if (!stop->is_list()) fail_at(*stop, "eos_token_id", "expected an id or a list of ids");
  std::vector<int64_t> ids;
  for (const Node& id : stop->as_list()) {
    if (!id.is_int()) fail_at(*stop, "eos_token_id", "expected an id or a list of ids");
    ids.push_back(id.as_int());
  }
  return ids;
}

HfConfig read_hf_config(const Node& node) {
  if (!node.is_map()) fail_at(node, "config", "expected a map");
  const Keys config(node, "");
  HfConfig out;
  for (const char* key : kRefusedKeys) {
    if (config.find(key) != nullptr) config.refuse(key, "is not supported");
  }
  out.family = read_family(config);
  const bool neox = out.family == HfFamily::kGptNeox;
  ModelSpec& spec = out.spec;
  spec.vocab_size = config.integer("vocab_size", 2, int64_t{1} << 31);
  spec.context_length = config.integer("max_position_embeddings", 1, kMaxContext);
  spec.tied_head = config.boolean_or("tie_word_embeddings", false);
  StackSpec stack;
  stack.d_model = config.integer("hidden_size", 1, kMaxSize);
  const int64_t layers = config.integer("num_hidden_layers", 1, 1024);
  LayerSpec layer;
  layer.norm.kind = neox ? NormKind::kLayerNorm : NormKind::kRmsNorm;
  layer.norm.bias = neox;
  layer.norm.eps =
      config.number_or(neox ? "layer_norm_eps" : "rms_norm_eps", neox ? 1e-5 : 1e-6, 1e-12, 1.0);
  layer.attention = read_attention(config, out.family, stack.d_model, spec.context_length);
  layer.ffn = read_ffn(config, out.family);
  const bool parallel = neox && config.boolean_or("use_parallel_residual", true);
  layer.residual = parallel ? ResidualKind::kParallel : ResidualKind::kSequential;
  const std::vector<int64_t> windows = read_windows(config, out.family, layers);
  for (int64_t l = 0; l < layers; ++l) {
    layer.attention.window = windows[static_cast<size_t>(l)];
    layer.kv_owner = l;
    stack.layers.push_back(layer);
  }
  stack.final_norm = layer.norm;
  spec.stacks.push_back(std::move(stack));
  try {
    validate(spec);
  } catch (const Error& error) {
    fail_at(node, "config", error.what());
  }
  out.stop_tokens = read_stop_tokens(node);
  out.name = config.text_or("_name_or_path", "");
  return out;
}

}  // namespace ashlar

#include "package/import/gguf_spec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr int64_t kMaxLayers = 1024;
constexpr double kMaxFactor = 1e6;

std::string text_at(const GgufFile& file, const char* key, const std::string& otherwise) {
  const Node* node = file.metadata().find(key);
  if (node == nullptr) return otherwise;
  require(node->is_string(), ErrorCode::kData, "{}: {} is no text", file.path().string(), key);
  return node->as_string();
}

GgufArch read_arch(const GgufFile& file) {
  const std::string name = text_at(file, "general.architecture", "");
  const auto arch = gguf_arch(name);
  require(arch.has_value(), ErrorCode::kData,
          "{}: architecture '{}' is not supported; supported are llama, qwen2, qwen3 and gptneox",
          file.path().string(), name);
  const std::string type = text_at(file, "general.type", "model");
  require(type == "model", ErrorCode::kData, "{}: holds no model but '{}' (general.type)",
          file.path().string(), type);
  const Node* pieces = file.metadata().find("split.count");
  require(pieces == nullptr || (pieces->is_int() && pieces->as_int() <= 1), ErrorCode::kData,
          "{}: one piece of a split model; join the pieces first", file.path().string());
  return *arch;
}

// The keys of the architecture without its prefix.
Node arch_keys(const GgufFile& file, const std::string& arch) {
  const std::string prefix = arch + ".";
  Node::Map keys;
  const auto name = std::make_shared<const std::string>(file.path().string());
  for (const auto& [key, value] : file.metadata().as_map()) {
    if (!key.starts_with(prefix)) continue;
    keys.emplace_back(key.substr(prefix.size()), value);
    keys.back().second.set_origin({name, 0});
  }
  Node node(std::move(keys));
  node.set_origin({name, 0});
  return node;
}

void refuse_unless(const Node& node, NodeReader& reader, const char* key, double only) {
  const double value = reader.number_or(key, only, -std::numeric_limits<double>::max(),
                                        std::numeric_limits<double>::max());
  if (value != only) {
    fail_at(node, reader.key_path(key), fmt::format("{} is not supported, only {}", value, only));
  }
}

RopeScaling read_scaling(const Node& node, NodeReader& reader, int64_t context) {
  RopeScaling s;
  const Node* legacy = reader.optional("rope.scale_linear");  // before 2023-09
  const bool has_factor = reader.has("rope.scaling.factor");
  const double factor = reader.number_or("rope.scaling.factor", 0, 0, kMaxFactor);
  const std::string type = reader.text_or("rope.scaling.type", has_factor ? "linear" : "none");
  reader.boolean_or("rope.scaling.finetuned", true);
  refuse_unless(node, reader, "rope.scaling.attn_factor", 1);
  refuse_unless(node, reader, "rope.scaling.yarn_ext_factor", 1);
  refuse_unless(node, reader, "rope.scaling.yarn_attn_factor", 1);
  refuse_unless(node, reader, "rope.scaling.yarn_log_multiplier", 0);
  const int64_t original =
      reader.integer_or("rope.scaling.original_context_length", context, 1, kMaxContext);
  s.beta_fast = reader.number_or("rope.scaling.yarn_beta_fast", s.beta_fast, 1e-3, kMaxFactor);
  s.beta_slow = reader.number_or("rope.scaling.yarn_beta_slow", s.beta_slow, 1e-3, kMaxFactor);
  if (type == "linear" || type == "yarn") {
    s.kind = type == "yarn" ? RopeScalingKind::kYarn : RopeScalingKind::kLinear;
    s.factor = factor == 0 ? 1 : factor;  // 0 means none, as when the key is absent
    if (s.kind == RopeScalingKind::kYarn) s.original_context = original;
  } else if (type != "none") {
    fail_at(node, reader.key_path("rope.scaling.type"),
            fmt::format("'{}' is not supported, only none, linear and yarn", type));
  }
  if (legacy != nullptr && s.kind == RopeScalingKind::kNone) {
    s.kind = RopeScalingKind::kLinear;
    s.factor = legacy->as_double();
  }
  if (s.kind != RopeScalingKind::kNone && s.factor < 1) {
    fail_at(node, reader.key_path("rope.scaling.factor"), fmt::format("{} is below 1", s.factor));
  }
  if (s.kind == RopeScalingKind::kLinear && s.factor == 1) return {};
  if (s.kind != RopeScalingKind::kYarn) s = {s.kind, s.factor, 0, 1, 4, 32, 1};
  return s;
}

// `rope_freqs.weight` says what Llama 3's stretching divides each frequency by, but not its
// parameters. Those published are tried, with the factor the tensor shows, and with the original
// context if the file names it; the ones that give this tensor are it. The converter computes
// frequencies in fp32: θ^x has a relative error of about ln θ · eps.
RopeScaling llama3_scaling(const GgufFile& file, const GgufTensor& tensor, RopeSpec rope,
                           int64_t original_context) {
  const std::string where = file.path().string();
  require(tensor.type == GgufType::kF32 && tensor.shape == std::vector<int64_t>{rope.dim / 2},
          ErrorCode::kData, "{}: tensor '{}' is not F32 [{}]", where, tensor.name, rope.dim / 2);
  require(rope.scaling.kind == RopeScalingKind::kNone, ErrorCode::kData,
          "{}: both rope.scaling.type and tensor '{}' stretch RoPE", where, tensor.name);
  std::vector<float> divisors(static_cast<size_t>(rope.dim / 2));
  std::memcpy(divisors.data(), file.data(tensor).data(), divisors.size() * 4);
  if (std::all_of(divisors.begin(), divisors.end(), [](float d) { return d == 1; })) return {};
  const double largest = *std::max_element(divisors.begin(), divisors.end());
  const double tolerance = 4 * std::log(rope.theta) * std::numeric_limits<float>::epsilon();
  for (const int64_t original : {original_context, int64_t{8192}}) {
    for (const double factor : {8.0, 32.0, largest}) {
      if (!(factor >= 1 && factor <= kMaxFactor)) continue;
      rope.scaling = {RopeScalingKind::kLlama3, factor, original, 1, 4, 32, 1};
      const std::vector<float> expected = llama3_divisors(rope);
      const auto close = [&](float a, float b) { return std::abs(a - b) <= tolerance * b; };
      if (std::equal(divisors.begin(), divisors.end(), expected.begin(), close)) {
        return rope.scaling;
      }
    }
  }
  fail(ErrorCode::kData,
       "{}: tensor '{}' stretches RoPE in a way that is not Llama 3's (original context {} or "
       "8192, low_freq_factor 1, high_freq_factor 4)",
       where, tensor.name, original_context);
}

struct Sizes {
  int64_t context = 0, layers = 0, width = 0;
};

void read_attention(const Node& node, NodeReader& reader, const Sizes& sizes, AttentionSpec& a) {
  a.heads = reader.integer("attention.head_count", 1, 1 << 16);
  a.kv_heads = reader.integer_or("attention.head_count_kv", a.heads, 1, a.heads);
  const bool has_length = reader.has("attention.key_length");
  if (!has_length && sizes.width % a.heads != 0) {
    fail_at(node, reader.key_path("attention.head_count"),
            fmt::format("{} does not divide embedding_length = {}", a.heads, sizes.width));
  }
  a.head_dim = reader.integer_or("attention.key_length", sizes.width / a.heads, 1, 1 << 16);
  const int64_t value = reader.integer_or("attention.value_length", a.head_dim, 1, 1 << 16);
  if (value != a.head_dim) {
    fail_at(node, reader.key_path("attention.value_length"),
            fmt::format("{} differs from key_length = {}", value, a.head_dim));
  }
  a.window = reader.integer_or("attention.sliding_window", 0, 0, kMaxContext);
  if (!reader.boolean_or("attention.causal", true)) {
    fail_at(node, reader.key_path("attention.causal"), "encoders are not supported");
  }
  a.rope.dim = reader.integer_or("rope.dimension_count", a.head_dim, 0, a.head_dim);
  a.rope.theta = reader.number_or("rope.freq_base", 10000, 1, 1e15);
  a.rope.scaling = read_scaling(node, reader, sizes.context);
}

// What is harmless, and what must be absent.
void read_rest(const Node& node, NodeReader& reader) {
  reader.optional("tensor_data_layout");
  reader.optional("vocab_size");  // the table's rows say it
  for (const char* key : {"expert_count", "expert_used_count"}) {
    if (reader.integer_or(key, 0, 0, 1 << 20) != 0) {
      fail_at(node, reader.key_path(key), "models of experts (MoE) are not supported");
    }
  }
  reader.finish();
}

void find_biases(const GgufFile& file, GgufArch arch, LayerSpec& layer) {
  if (arch == GgufArch::kGptNeox) {
    layer.attention.bias = BiasKind::kAll;
    layer.ffn.bias = true;
    return;
  }
  const bool qkv = arch == GgufArch::kQwen2 || file.find("blk.0.attn_q.bias") != nullptr;
  const bool out = file.find("blk.0.attn_output.bias") != nullptr;
  require(qkv || !out, ErrorCode::kData,
          "{}: a bias of attn_output without those of attn_q, attn_k and attn_v is not supported",
          file.path().string());
  layer.attention.bias = out ? BiasKind::kAll : qkv ? BiasKind::kQkv : BiasKind::kNone;
  layer.ffn.bias = file.find("blk.0.ffn_up.bias") != nullptr;
}

}  // namespace

GgufModel read_gguf_spec(const GgufFile& file) {
  GgufModel model;
  model.arch = read_arch(file);
  const bool neox = model.arch == GgufArch::kGptNeox;
  const std::string name = gguf_arch_name(model.arch);
  const Node node = arch_keys(file, name);
  NodeReader reader(node, name);
  Sizes sizes;
  sizes.context = reader.integer("context_length", 1, kMaxContext);
  sizes.layers = reader.integer("block_count", 1, kMaxLayers);
  sizes.width = reader.integer("embedding_length", 1, kMaxDim);
  LayerSpec layer;
  layer.ffn.d_ff = reader.integer("feed_forward_length", 1, kMaxDim);
  layer.norm.eps = reader.number(
      neox ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 0, 1);
  read_attention(node, reader, sizes, layer.attention);
  layer.attention.qk_norm = model.arch == GgufArch::kQwen3;
  if (neox) {
    layer.norm.kind = NormKind::kLayerNorm;
    layer.norm.bias = true;
    layer.ffn.kind = FfnKind::kGelu;
    const Node& parallel = reader.required("use_parallel_residual");
    if (parallel.as_bool()) layer.residual = ResidualKind::kParallel;
  }
  read_rest(node, reader);
  find_biases(file, model.arch, layer);
  const GgufTensor* divisors = file.find(kRopeDivisors);
  if (divisors != nullptr && model.arch == GgufArch::kLlama) {
    const Node* original = node.find("rope.scaling.original_context_length");
    layer.attention.rope.scaling =
        llama3_scaling(file, *divisors, layer.attention.rope,
                       original != nullptr ? original->as_int() : int64_t{8192});
  }
  const GgufTensor* table = file.find("token_embd.weight");
  require(table != nullptr && table->shape.size() == 2, ErrorCode::kData,
          "{}: tensor 'token_embd.weight' is missing or no matrix", file.path().string());
  ModelSpec& spec = model.spec;
  spec.vocab_size = table->shape[0];
  spec.context_length = sizes.context;
  spec.tied_head = !neox && file.find("output.weight") == nullptr;
  StackSpec stack;
  stack.d_model = sizes.width;
  stack.final_norm = layer.norm;
  for (int64_t l = 0; l < sizes.layers; ++l) {
    layer.kv_owner = l;
    stack.layers.push_back(layer);
  }
  spec.stacks.push_back(std::move(stack));
  validate(spec);
  return model;
}

}  // namespace ashlar

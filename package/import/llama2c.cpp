#include "package/import/llama2c.h"

#include <algorithm>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/mapped_file.h"

namespace ashlar {
namespace {

struct Header {
  int32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
};
static_assert(sizeof(Header) == 28);

int64_t head_dim(const Header& h) { return h.dim / h.n_heads; }
int64_t vocabulary(const Header& h) { return std::abs(static_cast<int64_t>(h.vocab_size)); }

std::string header_problem(const Header& h) {
  const auto within = [](int64_t v, int64_t low, int64_t high) { return v >= low && v <= high; };
  if (!within(h.dim, 2, 1 << 20)) return fmt::format("dim {}", h.dim);
  if (!within(h.hidden_dim, 1, 1 << 20)) return fmt::format("hidden_dim {}", h.hidden_dim);
  if (!within(h.n_layers, 1, 1024)) return fmt::format("n_layers {}", h.n_layers);
  if (!within(h.n_heads, 1, 4096) || h.dim % h.n_heads != 0 || head_dim(h) % 2 != 0 ||
      head_dim(h) > 4096) {
    return fmt::format("n_heads {} for dim {}", h.n_heads, h.dim);
  }
  if (!within(h.n_kv_heads, 1, h.n_heads) || h.n_heads % h.n_kv_heads != 0) {
    return fmt::format("n_kv_heads {} for n_heads {}", h.n_kv_heads, h.n_heads);
  }
  if (!within(vocabulary(h), 3, int64_t{1} << 24))
    return fmt::format("vocab_size {}", h.vocab_size);
  if (!within(h.seq_len, 1, 1 << 24)) return fmt::format("seq_len {}", h.seq_len);
  return {};
}

// Floats of the whole file behind the header, the cos/sin tables included.
int64_t expected_floats(const Header& h) {
  const int64_t d = h.dim, layers = h.n_layers, kv = h.n_kv_heads * head_dim(h);
  const int64_t layer = 2 * d + 2 * d * d + 2 * kv * d + 3 * d * h.hidden_dim;
  const int64_t tables = (h.vocab_size > 0 ? 1 : 2) * vocabulary(h) * d;
  return tables + layers * layer + d + static_cast<int64_t>(h.seq_len) * head_dim(h);
}

Header read_header(const MappedFile& file) {
  const std::string name = file.path().string();
  require(file.bytes().size() >= sizeof(Header), ErrorCode::kData,
          "{}: truncated: {} bytes hold no llama2.c header", name, file.bytes().size());
  Header h{};
  std::memcpy(&h, file.bytes().data(), sizeof(h));
  const std::string problem = header_problem(h);
  require(problem.empty(), ErrorCode::kData, "{}: not a llama2.c model: header says {}", name,
          problem);
  const int64_t wanted =
      checked_add(checked_mul(expected_floats(h), 4, "llama2.c model"), 28, "llama2.c model");
  require(wanted == static_cast<int64_t>(file.bytes().size()), ErrorCode::kData,
          "{}: truncated or not a llama2.c model: {} bytes, its header needs {}", name,
          file.bytes().size(), wanted);
  return h;
}

ModelSpec make_spec(const Header& h) {
  ModelSpec spec;
  spec.kind = ModelKind::kDecoder;
  spec.vocab_size = vocabulary(h);
  spec.context_length = h.seq_len;
  spec.tied_head = h.vocab_size > 0;
  StackSpec stack;
  stack.d_model = h.dim;
  for (int64_t l = 0; l < h.n_layers; ++l) {
    LayerSpec layer;
    layer.attention.heads = h.n_heads;
    layer.attention.kv_heads = h.n_kv_heads;
    layer.attention.head_dim = layer.attention.rope.dim = head_dim(h);
    layer.ffn.d_ff = h.hidden_dim;
    layer.kv_owner = l;
    stack.layers.push_back(layer);
  }
  spec.stacks.push_back(std::move(stack));
  return spec;
}

// Rows (2i, 2i+1) of each head become rows (i, i + head_dim/2).
void to_half_split(std::vector<float>& w, int64_t heads, int64_t dim, int64_t in) {
  const std::vector<float> old = w;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t target = i % 2 == 0 ? i / 2 : dim / 2 + i / 2;
      std::copy_n(old.begin() + (h * dim + i) * in, in, w.begin() + (h * dim + target) * in);
    }
  }
}

class TensorReader {
 public:
  TensorReader(const MappedFile& file, ModelData& model)
      : at_(file.bytes().data() + sizeof(Header)), model_(model) {}

  std::vector<float> take(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    std::memcpy(values.data(), at_, values.size() * 4);
    at_ += values.size() * 4;
    return values;
  }

  // One tensor of `role` for every layer.
  void layers(ParameterRole role, std::vector<int64_t> shape, int64_t rope_heads = 0) {
    const StackSpec& stack = model_.spec.stacks[0];
    const int64_t count = checked_numel(shape, "tensor");
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      std::vector<float> values = take(count);
      if (rope_heads > 0) {
        to_half_split(values, rope_heads, stack.layers[l].attention.head_dim, shape[1]);
      }
      put(role, shape, values, static_cast<int64_t>(l));
    }
  }

  void put(ParameterRole role, const std::vector<int64_t>& shape, const std::vector<float>& values,
           int64_t layer = -1) {
    const std::string name = parameter_name(model_.spec.stacks[0], role, layer);
    model_.tensors[name] = make_dense(name, shape, values);
  }

 private:
  const std::byte* at_;
  ModelData& model_;
};

}  // namespace

bool looks_like_llama2c(const std::filesystem::path& model) {
  try {
    read_header(MappedFile(model));
    return true;
  } catch (const Error&) {
    return false;
  }
}

ModelData import_llama2c(const std::filesystem::path& path, std::string tokenizer_json) {
  using Role = ParameterRole;
  const MappedFile file(path);
  const Header h = read_header(file);
  ModelData model;
  model.spec = make_spec(h);
  model.kv_codec = {"fp32", "fp32"};
  model.start_token = 1;
  model.stop_tokens = {1, 2};
  model.tokenizer_json = std::move(tokenizer_json);
  const int64_t d = h.dim, kv = h.n_kv_heads * head_dim(h), ff = h.hidden_dim;
  const int64_t vocab = vocabulary(h);
  TensorReader reader(file, model);
  reader.put(Role::kEmbedding, {vocab, d}, reader.take(vocab * d));
  reader.layers(Role::kAttentionNorm, {d});
  reader.layers(Role::kQuery, {d, d}, h.n_heads);
  reader.layers(Role::kKey, {kv, d}, h.n_kv_heads);
  reader.layers(Role::kValue, {kv, d});
  reader.layers(Role::kAttentionOut, {d, d});
  reader.layers(Role::kFfnNorm, {d});
  reader.layers(Role::kGate, {ff, d});
  reader.layers(Role::kDown, {d, ff});
  reader.layers(Role::kUp, {ff, d});
  reader.put(Role::kFinalNorm, {d}, reader.take(d));
  reader.take(static_cast<int64_t>(h.seq_len) * head_dim(h));  // cos and sin tables
  if (!model.spec.tied_head) reader.put(Role::kHead, {vocab, d}, reader.take(vocab * d));
  validate(model, path.string());
  return model;
}

}  // namespace ashlar

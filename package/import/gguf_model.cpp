#include "package/import/gguf_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/gguf.h"
#include "data/tokenizer/pre_tokenizers.h"
#include "package/import/gguf_blocks.h"
#include "package/import/gguf_spec.h"

namespace ashlar {
namespace {

using Role = ParameterRole;
using Bytes = std::vector<std::byte>;

// Some rows of a tensor in the file: all, a range, or in another order.
struct Rows {
  const GgufTensor* tensor = nullptr;
  int64_t first = 0, count = 0;
  std::vector<int64_t> order;  // row r is row first + order[r] of the tensor; empty: as they lie
};

class Importer {
 public:
  explicit Importer(const GgufFile& file) : file_(file), model_(read_gguf_spec(file)) {}

  ModelData run() {
    out_.spec = model_.spec;
    for (const ParameterSpec& p : parameters(out_.spec)) add(p);
    for (const GgufTensor& t : file_.tensors()) {
      const bool divisors = t.name == kRopeDivisors && model_.arch == GgufArch::kLlama;
      require(divisors || used_.count(t.name) != 0, ErrorCode::kData,
              "{}: tensor '{}' does not belong to this {} model", where(), t.name,
              gguf_arch_name(model_.arch));
    }
    read_tokens();
    out_.chat_template = text("tokenizer.chat_template");
    out_.name = text("general.name");
    validate(out_, where());
    return std::move(out_);
  }

 private:
  std::string where() const { return file_.path().string(); }
  void add(const ParameterSpec& p);
  Rows fused_rows(const ParameterSpec& p, bool bias) const;
  Rows locate(const ParameterSpec& p) const;
  void check(const ParameterSpec& p, const Rows& rows, int64_t tensor_rows) const;
  const GgufTensor& tensor(const std::string& name) const;
  const Node* key(const std::string& name) const { return file_.metadata().find(name); }
  std::string text(const std::string& name) const;
  std::optional<int64_t> token(const char* name) const;
  bool begins_with_bos(const std::string& tokenizer) const;
  void read_tokens();

  const GgufFile& file_;
  GgufModel model_;
  ModelData out_;
  std::set<std::string> used_;
};

const GgufTensor& Importer::tensor(const std::string& name) const {
  const GgufTensor* found = file_.find(name);
  require(found != nullptr, ErrorCode::kData, "{}: tensor '{}' is missing", where(), name);
  return *found;
}

// q, k and v of gptneox: one after the other.
Rows Importer::fused_rows(const ParameterSpec& p, bool bias) const {
  const AttentionSpec& a = out_.spec.stacks[0].layers[static_cast<size_t>(p.layer)].attention;
  const int64_t q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
  const bool query = p.role == Role::kQuery || p.role == Role::kQueryBias;
  const bool key = p.role == Role::kKey || p.role == Role::kKeyBias;
  Rows rows{&tensor(gguf_fused_name(p.layer, bias)), query ? 0 : key ? q : q + kv, p.shape[0], {}};
  check(p, rows, q + 2 * kv);
  return rows;
}

Rows Importer::locate(const ParameterSpec& p) const {
  const bool bias =
      p.role == Role::kQueryBias || p.role == Role::kKeyBias || p.role == Role::kValueBias;
  const bool projection = p.role == Role::kQuery || p.role == Role::kKey || p.role == Role::kValue;
  if (model_.arch == GgufArch::kGptNeox && (bias || projection)) return fused_rows(p, bias);
  const auto name = gguf_tensor_name(p.role, p.layer);
  ASHLAR_CHECK(name.has_value());
  Rows rows{&tensor(*name), 0, p.shape[0], {}};
  check(p, rows, p.shape[0]);
  if (pairs_neighbours(model_.arch) && is_roped(p.role)) {
    const AttentionSpec& a = out_.spec.stacks[0].layers[static_cast<size_t>(p.layer)].attention;
    rows.order = half_split_rows(p.shape[0] / a.head_dim, a.head_dim, a.rope.dim);
  }
  return rows;
}

void Importer::check(const ParameterSpec& p, const Rows& rows, int64_t tensor_rows) const {
  std::vector<int64_t> wanted = p.shape;
  wanted[0] = tensor_rows;
  const GgufTensor& t = *rows.tensor;
  require(t.shape == wanted, ErrorCode::kData,
          "{}: tensor '{}' has shape [{}], the model needs [{}]", where(), t.name,
          fmt::join(t.shape, ", "), fmt::join(wanted, ", "));
  require(is_weight_type(t.type), ErrorCode::kData,
          "{}: tensor '{}' has type {}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
          "Q8_0, Q4_K, Q5_K and Q6_K",
          where(), t.name, gguf_type_info(t.type).name);
  const bool dense = gguf_type_info(t.type).block == 1;
  require(dense || p.is_linear() || p.role == Role::kEmbedding, ErrorCode::kData,
          "{}: tensor '{}' has type {}, but is no matrix of a linear map or table", where(), t.name,
          gguf_type_info(t.type).name);
}

// Bytes of rows in the mapping and what they become.
struct RowSource {
  std::shared_ptr<const MappedFile> file;
  std::span<const std::byte> data;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> order;
  std::string name;
  std::vector<int64_t> shape;
};

WeightTensor read_rows(const RowSource& s) {
  const std::shared_ptr<const void> pages = hold(s.file, s.data);
  if (s.order.empty()) return weight_from_gguf(s.name, s.shape, s.type, s.data, pages);
  const size_t row = s.data.size() / s.order.size();
  auto ordered = std::make_shared<Bytes>(s.data.size());
  for (size_t r = 0; r < s.order.size(); ++r) {
    std::memcpy(ordered->data() + r * row, s.data.data() + static_cast<size_t>(s.order[r]) * row,
                row);
  }
  return weight_from_gguf(s.name, s.shape, s.type, *ordered, ordered);
}

void Importer::add(const ParameterSpec& p) {
  Rows rows = locate(p);
  const GgufTensor& t = *rows.tensor;
  used_.insert(t.name);
  const int64_t row = t.bytes / t.shape[0];
  const auto data = file_.data(t).subspan(static_cast<size_t>(rows.first * row),
                                          static_cast<size_t>(rows.count * row));
  RowSource source{file_.mapping(), data, t.type, std::move(rows.order), p.name, p.shape};
  out_.tensors[p.name] = TensorSource(p.name, p.shape, gguf_encoding(t.type),
                                      [source = std::move(source)] { return read_rows(source); });
}

std::string Importer::text(const std::string& name) const {
  const Node* node = key(name);
  if (node == nullptr) return {};
  require(node->is_string(), ErrorCode::kData, "{}: {} is no text", where(), name);
  return node->as_string();
}

std::optional<int64_t> Importer::token(const char* name) const {
  const Node* node = key(fmt::format("tokenizer.ggml.{}_token_id", name));
  if (node == nullptr) return std::nullopt;
  require(node->is_int() && node->as_int() >= 0 && node->as_int() < out_.spec.vocab_size,
          ErrorCode::kData, "{}: tokenizer.ggml.{}_token_id is outside the vocabulary of {}",
          where(), name, out_.spec.vocab_size);
  return node->as_int();
}

// Whether BOS goes in front of a text: as the file says, else as llama.cpp takes it for the
// tokenizer's kind.
bool Importer::begins_with_bos(const std::string& tokenizer) const {
  if (const Node* node = key("tokenizer.ggml.add_bos_token")) {
    require(node->is_bool(), ErrorCode::kData, "{}: tokenizer.ggml.add_bos_token is no truth value",
            where());
    return node->as_bool();
  }
  const PreTokenizer* pre = find_pre_tokenizer(text("tokenizer.ggml.pre"));
  return tokenizer == "llama" || (pre != nullptr && pre->add_bos);
}

void Importer::read_tokens() {
  const std::string tokenizer = text("tokenizer.ggml.model");
  if (const Node* tokens = key("tokenizer.ggml.tokens")) {
    require(
        tokens->is_list() && static_cast<int64_t>(tokens->as_list().size()) == out_.spec.vocab_size,
        ErrorCode::kData, "{}: tokenizer.ggml.tokens does not list the {} tokens of the table",
        where(), out_.spec.vocab_size);
  }
  if (tokenizer.empty()) return;
  if (begins_with_bos(tokenizer)) {
    out_.start_token = token("bos");
    require(out_.start_token.has_value(), ErrorCode::kData,
            "{}: texts begin with BOS, but tokenizer.ggml.bos_token_id is missing", where());
  }
  for (const char* name : {"eos", "eot", "eom"}) {
    const auto id = token(name);
    auto& stops = out_.stop_tokens;
    if (id && std::find(stops.begin(), stops.end(), *id) == stops.end()) stops.push_back(*id);
  }
}

}  // namespace

bool has_gguf_tokenizer(const GgufFile& file) {
  const Node* model = file.metadata().find("tokenizer.ggml.model");
  return model != nullptr && !(model->is_string() && model->as_string() == "no_vocab");
}

ModelData import_gguf(const GgufFile& file) { return Importer(file).run(); }

ModelData import_gguf(const std::filesystem::path& path) { return import_gguf(GgufFile(path)); }

}  // namespace ashlar

#include "package/format/model_data.h"

#include <fmt/ranges.h>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/sha256.h"
#include "package/format/k_quants.h"

namespace ashlar {
namespace {

void check_encoding(const TensorSource& t, const std::string& source) {
  try {
    t.check();
  } catch (const Error& e) {
    fail(ErrorCode::kData, "{}: {}", source, e.what());
  }
}

void check_token(const char* what, int64_t token, const ModelSpec& spec,
                 const std::string& source) {
  require(token >= 0 && token < spec.vocab_size, ErrorCode::kData,
          "{}: {} {} is outside the vocabulary of {}", source, what, token, spec.vocab_size);
}

}  // namespace

WeightTensor ModelData::tensor(const std::string& name) const {
  const auto it = tensors.find(name);
  require(it != tensors.end(), ErrorCode::kData, "tensor '{}' is missing", name);
  return it->second.load();
}

int64_t ModelData::weight_bytes() const {
  int64_t total = 0;
  for (const auto& [name, t] : tensors) total += t.stored_bytes();
  return total;
}

void validate(const ModelData& model, const std::string& source) {
  const std::vector<ParameterSpec> wanted = parameters(model.spec);
  for (const ParameterSpec& p : wanted) {
    const auto it = model.tensors.find(p.name);
    require(it != model.tensors.end(), ErrorCode::kData, "{}: tensor '{}' is missing", source,
            p.name);
    const TensorSource& t = it->second;
    require(t.shape() == p.shape, ErrorCode::kData,
            "{}: tensor '{}' has shape [{}], the model needs [{}]", source, p.name,
            fmt::join(t.shape(), ", "), fmt::join(p.shape, ", "));
    require(!t.quantized() || p.is_linear() || p.role == ParameterRole::kEmbedding,
            ErrorCode::kData,
            "{}: tensor '{}' is quantized, but only linear maps and the token table may be", source,
            p.name);
    check_encoding(t, source);
  }
  if (model.tensors.size() != wanted.size()) {
    std::map<std::string, bool> known;
    for (const ParameterSpec& p : wanted) known[p.name] = true;
    for (const auto& [name, t] : model.tensors) {
      require(known.count(name) != 0, ErrorCode::kData,
              "{}: tensor '{}' does not belong to this model", source, name);
    }
  }
  if (model.start_token) check_token("start token", *model.start_token, model.spec, source);
  require(model.start_token || !model.spec.block, ErrorCode::kData,
          "{}: a Block Transformer needs a start token", source);
  for (int64_t token : model.stop_tokens) check_token("stop token", token, model.spec, source);
}

std::string weights_sha256(const ModelData& model) {
  Sha256 sha;
  const auto add = [&](const std::string& text) {
    sha.update(std::as_bytes(std::span(text.data(), text.size())));
  };
  for (const auto& [name, source] : model.tensors) {
    const WeightTensor t = source.load();
    add(fmt::format("{} [{}] ", name, fmt::join(t.shape, ",")));
    if (const auto* dense = std::get_if<DenseTensor>(&t.value)) {
      add(fmt::format("{}\n", dtype_name(dense->dtype)));
      sha.update(dense->data);
    } else if (const auto* blocks = std::get_if<BlockTensor>(&t.value)) {
      add(fmt::format("{}\n", block_name(blocks->kind)));
      sha.update(blocks->data);
    } else {
      const auto& q = std::get<QuantTensor>(t.value);
      add(fmt::format("q{} group {} min {}\n", q.bits, q.group, !q.min.empty()));
      sha.update(q.codes);
      sha.update(q.scale);
      sha.update(q.min);
    }
  }
  return sha.hex();
}

int32_t marker_token(const ModelData& model) {
  require(
      model.start_token || !model.stop_tokens.empty(), ErrorCode::kRequest,
      "the model names neither a start nor a stop token, so nothing can stand in front of a text");
  return static_cast<int32_t>(model.start_token ? *model.start_token : model.stop_tokens[0]);
}

}  // namespace ashlar

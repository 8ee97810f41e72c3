#include "package/format/model_data.h"

#include <fmt/ranges.h>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace {

void check_sizes(const WeightTensor& t, const std::string& source) {
  const int64_t numel = checked_numel(t.shape, t.name.c_str());
  const auto expect = [&](const char* part, std::span<const std::byte> bytes, int64_t wanted) {
    require(static_cast<int64_t>(bytes.size()) == wanted, ErrorCode::kData,
            "{}: tensor '{}': {} has {} bytes, expected {}", source, t.name, part, bytes.size(),
            wanted);
  };
  if (const auto* dense = std::get_if<DenseTensor>(&t.value)) {
    require(
        dense->dtype == DType::kF32 || dense->dtype == DType::kF16 || dense->dtype == DType::kBF16,
        ErrorCode::kData, "{}: tensor '{}': element type {} is no weight type", source, t.name,
        dtype_name(dense->dtype));
    expect("data", dense->data, checked_mul(numel, dtype_bytes(dense->dtype), t.name.c_str()));
    return;
  }
  const auto& q = std::get<QuantTensor>(t.value);
  require(t.shape.size() == 2 && (q.bits == 8 || q.bits == 4) && q.group >= 1, ErrorCode::kData,
          "{}: tensor '{}': {} bits in groups of {} is no known encoding", source, t.name, q.bits,
          q.group);
  const int64_t groups = checked_mul(t.shape[0], ceil_div(t.shape[1], q.group), t.name.c_str());
  expect("codes", q.codes, t.shape[0] * quant_row_bytes(q.bits, t.shape[1]));
  expect("scale", q.scale, 2 * groups);
  if (!q.min.empty()) expect("min", q.min, 2 * groups);
}

void check_token(const char* what, int64_t token, const ModelSpec& spec,
                 const std::string& source) {
  require(token >= 0 && token < spec.vocab_size, ErrorCode::kData,
          "{}: {} {} is outside the vocabulary of {}", source, what, token, spec.vocab_size);
}

}  // namespace

const WeightTensor& ModelData::tensor(const std::string& name) const {
  const auto it = tensors.find(name);
  require(it != tensors.end(), ErrorCode::kData, "tensor '{}' is missing", name);
  return it->second;
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
    const WeightTensor& t = it->second;
    require(t.shape == p.shape, ErrorCode::kData,
            "{}: tensor '{}' has shape [{}], the model needs [{}]", source, p.name,
            fmt::join(t.shape, ", "), fmt::join(p.shape, ", "));
    require(!t.quantized() || p.is_linear(), ErrorCode::kData,
            "{}: tensor '{}' is quantized, but only linear maps may be", source, p.name);
    check_sizes(t, source);
  }
  if (model.tensors.size() != wanted.size()) {
    std::map<std::string, bool> known;
    for (const ParameterSpec& p : wanted) known[p.name] = true;
    for (const auto& [name, t] : model.tensors) {
      require(known.count(name) != 0, ErrorCode::kData,
              "{}: tensor '{}' does not belong to this model", source, name);
    }
  }
  check_token("start token", model.start_token, model.spec, source);
  for (int64_t token : model.stop_tokens) check_token("stop token", token, model.spec, source);
}

std::string weights_sha256(const ModelData& model) {
  Sha256 sha;
  const auto add = [&](const std::string& text) {
    sha.update(std::as_bytes(std::span(text.data(), text.size())));
  };
  for (const auto& [name, t] : model.tensors) {
    add(fmt::format("{} [{}] ", name, fmt::join(t.shape, ",")));
    if (const auto* dense = std::get_if<DenseTensor>(&t.value)) {
      add(fmt::format("{}\n", dtype_name(dense->dtype)));
      sha.update(dense->data);
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

}  // namespace ashlar

#include "quantize/quantize.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "quantize/fuse.h"
#include "quantize/rtn.h"

namespace ashlar {
namespace {

WeightTensor encode(const ParameterSpec& p, const std::vector<double>& values,
                    const Recipe& recipe) {
  if (p.is_linear()) {
    const WeightRecipe& how = p.role == ParameterRole::kHead ? recipe.head : recipe.weights;
    if (how.bits != 16) return quantize_rtn(p.name, values, p.shape[0], p.shape[1], how);
  }
  for (double v : values) {
    require(std::isfinite(v), ErrorCode::kData, "tensor '{}' holds {}", p.name, v);
  }
  const std::vector<float> floats(values.begin(), values.end());
  const DType dtype = !p.is_matrix() ? DType::kF32 : p.is_linear() ? DType::kF16 : recipe.embedding;
  return make_dense(p.name, p.shape, floats, dtype);
}

}  // namespace

ModelData quantize_model(const ModelData& model, const Recipe& recipe) {
  require(model.rotation.stacks.empty(), ErrorCode::kRequest,
          "the model is rotated already: quantize the original");
  DoubleWeights weights;
  require(model.recipe.is_null(), ErrorCode::kRequest,
          "the model is quantized already, by the recipe in its package: quantize the original");
  if (const auto it = std::ranges::find_if(
          model.tensors, [](const auto& entry) { return entry.second.quantized(); });
      it != model.tensors.end()) {
    spdlog::warn(
        "the source is quantized itself (tensor '{}': {}): its rounding stays, this one is added",
        it->first, it->second.encoding().description());
  }
  for (const auto& [name, source] : model.tensors) {
    const std::vector<float> floats = to_floats(source.load());
    weights[name].assign(floats.begin(), floats.end());
  }
  RotationPlan plan = plan_rotation(model.spec, recipe.rotation);
  // A head of fewer bits than the table needs codes of its own.
  if (model.spec.tied_head && recipe.head.bits != 16) plan.untie_head = true;
  ModelData out;
  out.spec = fuse_rotation(model.spec, plan, weights);
  out.rotation = plan.manifest;
  out.recipe = to_node(recipe);
  out.kv_codec = recipe.kv;
  out.start_token = model.start_token;
  out.stop_tokens = model.stop_tokens;
  out.tokenizer_json = model.tokenizer_json;
  out.chat_template = model.chat_template;
  out.name = model.name;
  const std::vector<ParameterSpec> wanted = parameters(out.spec);
  Progress progress("quantize", static_cast<int64_t>(wanted.size()));
  int64_t done = 0;
  for (const ParameterSpec& p : wanted) {
    std::vector<double>& values = weights.at(p.name);
    out.tensors[p.name] = encode(p, values, recipe);
    std::vector<double>().swap(values);
    progress.update(++done, p.name);
  }
  validate(out, "quantized model");
  return out;
}

}  // namespace ashlar

#include "quantize/fuse.h"

#include "core/base/error.h"

namespace ashlar {

std::vector<double> fuse_tensor(std::vector<double> values, int64_t rows, int64_t columns,
                                const TensorChange& change, const std::vector<double>& gain) {
  for (int64_t r = 0; r < rows; ++r) {
    double* row = values.data() + r * columns;
    if (!gain.empty()) {
      for (int64_t c = 0; c < columns; ++c) row[c] *= gain[static_cast<size_t>(c)];
    }
    apply_basis(change.input, row);
  }
  if (change.output.empty()) return values;
  std::vector<double> column(static_cast<size_t>(rows));
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      column[static_cast<size_t>(r)] = values[static_cast<size_t>(r * columns + c)];
    }
    apply_basis(change.output, column.data());
    for (int64_t r = 0; r < rows; ++r) {
      values[static_cast<size_t>(r * columns + c)] = column[static_cast<size_t>(r)];
    }
  }
  return values;
}

ModelSpec fuse_rotation(const ModelSpec& spec, const RotationPlan& plan, DoubleWeights& weights) {
  ModelSpec after = spec;
  if (plan.untie_head) {
    after.tied_head = false;
    const StackSpec& stack = spec.token_stack();
    weights[parameter_name(stack, ParameterRole::kHead)] =
        weights.at(parameter_name(stack, ParameterRole::kEmbedding));
  }
  for (const ParameterSpec& p : parameters(after)) {
    const auto it = plan.changes.find(p.name);
    if (it == plan.changes.end()) continue;
    const std::vector<double> gain =
        it->second.fold_gain.empty() ? std::vector<double>{} : weights.at(it->second.fold_gain);
    const int64_t rows = p.is_matrix() ? p.shape[0] : 1;
    const int64_t columns = p.shape.back();
    std::vector<double>& values = weights.at(p.name);
    values = fuse_tensor(std::move(values), rows, columns, it->second, gain);
  }
  for (const std::string& norm : plan.unit_norms) {
    std::vector<double>& gain = weights.at(norm);
    gain.assign(gain.size(), 1.0);
  }
  return after;
}

}  // namespace ashlar

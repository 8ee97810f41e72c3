#include "tests/reference/reference_model.h"

#include <cmath>

#include "tests/reference/forward.h"

namespace ashlar::reference {

std::vector<double> logits(const ModelSpec& spec, const Weights& weights,
                           const std::vector<int64_t>& tokens, int64_t eos) {
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  const test::ReferenceModel<double> model(spec, weights);
  std::vector<double> out;
  for (const auto& row : model.logits(ids, static_cast<int32_t>(eos))) {
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

std::vector<double> log_probabilities(const ModelSpec& spec, const Weights& weights,
                                      const std::vector<int64_t>& tokens, int64_t eos) {
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  const test::ReferenceModel<double> model(spec, weights);
  const auto rows = model.predictions(ids, static_cast<int32_t>(eos));
  std::vector<double> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    double top = -INFINITY, total = 0;
    for (double x : rows[i]) top = std::max(top, x);
    for (double x : rows[i]) total += std::exp(x - top);
    out.push_back(rows[i][static_cast<size_t>(ids[i])] - top - std::log(total));
  }
  return out;
}

}  // namespace ashlar::reference

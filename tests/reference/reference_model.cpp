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

namespace {

// Replaces logits by log-probabilities.
void normalise(std::vector<double>& row) {
  double top = -INFINITY, total = 0;
  for (double x : row) top = std::max(top, x);
  for (double x : row) total += std::exp(x - top);
  for (double& x : row) x -= top + std::log(total);
}

}  // namespace

std::vector<std::vector<double>> masked_log_probabilities(const ModelSpec& spec,
                                                          const Weights& weights,
                                                          const std::vector<int64_t>& tokens,
                                                          const std::vector<size_t>& first) {
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  auto rows = test::ReferenceModel<double>(spec, weights).masked_logits(ids, first);
  for (auto& row : rows) normalise(row);
  return rows;
}

std::vector<double> log_probabilities(const ModelSpec& spec, const Weights& weights,
                                      const std::vector<int64_t>& tokens, int64_t eos) {
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  const test::ReferenceModel<double> model(spec, weights);
  auto rows = model.predictions(ids, static_cast<int32_t>(eos));
  std::vector<double> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    normalise(rows[i]);
    out.push_back(rows[i][static_cast<size_t>(ids[i])]);
  }
  return out;
}

}  // namespace ashlar::reference

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/spec/spec.h"

// The slow model of forward.h in double precision, as flat vectors.

namespace ashlar::reference {

/// Parameter values by name, row-major (out, in).
using Weights = std::map<std::string, std::vector<double>>;

/// Logits [T][V] flattened; row i predicts the token after token i. For a Block Transformer one
/// block of `eos` stands before the text and T may be any length.
std::vector<double> logits(const ModelSpec& spec, const Weights& weights,
                           const std::vector<int64_t>& tokens, int64_t eos);

/// log p(token i | start marker, tokens 0…i−1) for every i.
std::vector<double> log_probabilities(const ModelSpec& spec, const Weights& weights,
                                      const std::vector<int64_t>& tokens, int64_t eos);

/// log p(· | tokens first[i]…i) of every row of a decoder: packed documents.
std::vector<std::vector<double>> masked_log_probabilities(const ModelSpec& spec,
                                                          const Weights& weights,
                                                          const std::vector<int64_t>& tokens,
                                                          const std::vector<size_t>& first);

}  // namespace ashlar::reference

#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/base/node.h"
#include "models/spec/spec.h"

// Which policy goes with which codec on which architecture, and which option with which policy.
// Nothing of it is written down here: every combination is asked of choose_cache, as a command
// would, and reasons are what it says.

namespace ashlar::cli {

using NamedSpecs = std::vector<std::pair<std::string, ModelSpec>>;

/// One small model of each architecture that caches differ in.
NamedSpecs matrix_architectures();

/// What choose_cache says to one combination.
struct MatrixAnswer {
  std::string architecture, policy, codec;
  std::string refusal;  ///< empty: it goes
};

/// All policies, "none" first and the oracle of an evaluation last, with all codecs, some of which
/// keep rows in fp16 beside them, on all of `models`; in this order.
std::vector<MatrixAnswer> ask_matrix(const NamedSpecs& models);
Node to_node(const std::vector<MatrixAnswer>& answers);

/// Tables in Markdown: policy × architecture, codec × architecture, what of their product goes in
/// no table, policy × option; reasons below.
std::string matrix_markdown(const NamedSpecs& models);

}  // namespace ashlar::cli

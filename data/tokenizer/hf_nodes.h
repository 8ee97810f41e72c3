#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/base/node.h"

// Parts of a tokenizer.json that every writer needs.

namespace ashlar {

/// {"type": type}.
Node typed_node(const char* type);
/// A Sequence of steps, which stand under `key`.
Node sequence_node(const char* key, Node::List steps);

/// A special token by id and spelling.
using HfSpecialToken = std::pair<int32_t, std::string>;
/// A post-processor that puts tokens before and behind a text; null without any. Of a pair, only
/// the first text gets them.
Node template_node(const std::vector<HfSpecialToken>& before,
                   const std::vector<HfSpecialToken>& behind);

}  // namespace ashlar

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

/// Parses YAML text into a Node; plain scalars become null, bool, int, double or string by the YAML
/// 1.2 core schema, quoted ones stay strings. Refuses duplicate keys, several documents, anchors'
/// cycles and non-scalar keys. Throws Error(kRequest) "file:line: reason".
Node parse_yaml(const std::string& text, const std::string& file);

/// Loads a file. A top-level `base: other.yaml` (path relative to this file) is loaded first and
/// this file's maps are merged over it key by key; lists and scalars replace.
Node load_yaml(const std::filesystem::path& path);

/// Applies `a.b.c=value` overrides; the value is parsed as YAML. Throws Error(kRequest) for an
/// override without '=' or one that walks through a scalar.
void apply_overrides(Node& root, const std::vector<std::string>& overrides);

/// Block-style YAML that `parse_yaml` reads back to an equal tree.
std::string write_yaml(const Node& node);

}  // namespace ashlar

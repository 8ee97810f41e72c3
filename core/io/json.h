#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "core/base/node.h"

namespace ashlar {

/// Parses JSON text. `file` names it in messages and in the origins of the nodes. Refuses duplicate
/// keys, nesting deeper than 100 levels, invalid UTF-8 and integers beyond int64. Throws
/// Error(kData).
Node parse_json(std::string_view text, const std::string& file);

/// Reads and parses a file; a missing one is Error(kRequest).
Node load_json(const std::filesystem::path& path);

/// Writes JSON; indent < 0 gives one line. Doubles round-trip; NaN and infinities become null, as
/// JSON has no word for them.
std::string write_json(const Node& node, int indent = -1);

}  // namespace ashlar

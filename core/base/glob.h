#pragma once

#include <string_view>

namespace ashlar {

/// True if `pattern` describes all of `text`: '*' stands for any number of characters (dots as
/// well), '?' for one, every other character for itself.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace ashlar

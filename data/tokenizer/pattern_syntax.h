#pragma once

#include <string>

namespace ashlar {

/// An Oniguruma pattern in PCRE2's syntax with the reference's characters.
///
/// Every class, \p{..}, \s, \d and every bracket becomes explicit ranges of Unicode 16 code points,
/// so that nothing depends on what PCRE2 knows (Unicode 14 on Debian 12). A letter under (?i:..)
/// becomes the set of its forms, U+017F and U+212A included. Constructs on which the engines differ
/// are refused by name with Error(kData), never guessed; `where` names the pattern.
std::string to_pcre2(const std::string& pattern, const std::string& where);

}  // namespace ashlar

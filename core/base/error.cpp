#include "core/base/error.h"

#include <string_view>

namespace ashlar::detail {

void check_failed(const char* file, int line, const char* expression, const std::string& operands) {
  // Only the file's name: build paths are nobody's business.
  std::string_view name(file);
  if (const size_t slash = name.rfind('/'); slash != std::string_view::npos) {
    name.remove_prefix(slash + 1);
  }
  const std::string detail = operands.empty() ? "" : fmt::format(" ({})", operands);
  fail(ErrorCode::kInternal, "internal check failed at {}:{}: {}{}", name, line, expression,
       detail);
}

}  // namespace ashlar::detail

#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace ashlar {

/// Why an operation stopped. The command line maps `kRequest` to exit status 2 and the rest to 1.
enum class ErrorCode {
  kRequest,   ///< the caller asked for something wrong: option, configuration, path, combination
  kData,      ///< a file or stream is not what it claims to be: truncated, corrupt, foreign
  kIo,        ///< the operating system refused: permission, full disk, vanished file
  kResource,  ///< memory, arena or context exhausted
  kInternal,  ///< a broken invariant of Ashlar itself
};

/// The one exception type thrown across Ashlar's boundaries. The message is a single line that says
/// what, where, why and, where it helps, what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }
  /// Process exit status for this error: 2 for a wrong request, 1 for a failed run.
  int exit_status() const { return code_ == ErrorCode::kRequest ? 2 : 1; }

 private:
  ErrorCode code_;
};

/// Throws `Error(code, formatted message)`.
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws `Error(code, ...)` unless `condition` holds.
template <typename... Args>
void require(bool condition, ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(code, format, std::forward<Args>(args)...);
}

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* expression,
                               const std::string& operands);
}  // namespace detail

}  // namespace ashlar

/// Programmer errors: print the operands and throw `Error(kInternal)`.
#define ASHLAR_CHECK(condition)                                           \
  do {                                                                    \
    if (!(condition)) [[unlikely]]                                        \
      ::ashlar::detail::check_failed(__FILE__, __LINE__, #condition, {}); \
  } while (false)

#define ASHLAR_CHECK_OP(a, op, b)                                                  \
  do {                                                                             \
    const auto& check_a_ = (a);                                                    \
    const auto& check_b_ = (b);                                                    \
    if (!(check_a_ op check_b_)) [[unlikely]]                                      \
      ::ashlar::detail::check_failed(__FILE__, __LINE__, #a " " #op " " #b,        \
                                     fmt::format("{} vs {}", check_a_, check_b_)); \
  } while (false)

#define ASHLAR_CHECK_EQ(a, b) ASHLAR_CHECK_OP(a, ==, b)
#define ASHLAR_CHECK_NE(a, b) ASHLAR_CHECK_OP(a, !=, b)
#define ASHLAR_CHECK_LT(a, b) ASHLAR_CHECK_OP(a, <, b)
#define ASHLAR_CHECK_LE(a, b) ASHLAR_CHECK_OP(a, <=, b)
#define ASHLAR_CHECK_GT(a, b) ASHLAR_CHECK_OP(a, >, b)
#define ASHLAR_CHECK_GE(a, b) ASHLAR_CHECK_OP(a, >=, b)

#pragma once

#include <exception>
#include <iostream>

#include "core/base/error.h"

namespace ashlar {

/// What f() returns, or the exit status of what it throws, which goes to stderr: 2 for a wrong
/// request, 1 for the rest.
template <typename F>
int status_of(F f) {
  try {
    return f();
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return error.exit_status();
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace ashlar

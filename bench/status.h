#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "cli/app.h"
#include "core/base/error.h"

namespace ashlar {

/// Reads a program's options; within status_of, which --help and a wrong option end.
inline void read_options(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& end) {
    throw cli::ExitStatus{app.exit(end) == 0 ? 0 : 2};
  }
}

/// What f() returns, or the exit status of what it throws, which goes to stderr: 2 for a wrong
/// request, 1 for the rest.
template <typename F>
int status_of(F f) {
  try {
    return f();
  } catch (const cli::ExitStatus& end) {
    return end.status;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return error.exit_status();
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace ashlar

#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>

#include "core/base/error.h"
#include "core/base/node.h"

namespace ashlar::cli {

/// Thrown by a command that is done but ends with another exit status than 0.
struct ExitStatus {
  int status = 0;
};

/// Adds one subcommand to the application. Its callback throws ashlar::Error when it fails.
using AddCommand = void (*)(CLI::App& app);

/// Parses the command line, runs the chosen command and returns the process exit status: 0 done,
/// 1 the run failed, 2 the request was wrong. Errors go to stderr as one line.
int run(int argc, char** argv, const std::string& program, const std::string& description,
        std::span<const AddCommand> commands);

/// Adds `--json`: one machine-readable result on stdout.
void add_json_flag(CLI::App* command, bool& json);
/// Prints one JSON value and a newline to stdout.
void print_json(const Node& node);

/// Adds `--threads N` (0 or absent: the cores this process may use).
void add_threads_option(CLI::App* command, int& threads);

}  // namespace ashlar::cli

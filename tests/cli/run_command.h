#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "cli/app.h"
#include "core/io/json.h"

namespace ashlar::cli::test_commands {

struct Outcome {
  int status = 0;
  std::string out, err;
};

/// Runs `ashlar ARGUMENTS` in this process with these commands and keeps what it printed.
inline Outcome run_command(std::span<const AddCommand> commands,
                           std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "ashlar");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = run(static_cast<int>(argv.size()), argv.data(), "ashlar", "test", commands);
  std::fflush(stdout);
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

/// The one machine-readable line of a command that succeeded.
inline Node json_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1) << outcome.out;
  return parse_json(outcome.out, "stdout");
}

}  // namespace ashlar::cli::test_commands

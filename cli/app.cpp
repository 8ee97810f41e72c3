#include "cli/app.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <new>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "core/io/json.h"

namespace ashlar::cli {
namespace {

int report(const std::string& program, const std::string& message, int status) {
  fmt::print(stderr, "{}: {}\n", program, message);
  return status;
}

// CLI11 would only say that a command is missing.
void check_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
    if (names.back() == argv[1]) return;
  }
  fail(ErrorCode::kRequest, "unknown command '{}': use one of {}", argv[1], fmt::join(names, ", "));
}

}  // namespace

int run(int argc, char** argv, const std::string& program, const std::string& description,
        std::span<const AddCommand> commands) {
  CLI::App app(description, program);
  app.set_version_flag("--version", std::string(kVersion));
  std::string level = "info";
  app.add_option("--log-level", level, "trace, debug, info, warn, error or off")
      ->envname("ASHLAR_LOG_LEVEL");
  app.require_subcommand(1);
  app.fallthrough();
  // Logging must be ready before a command's callback runs inside parse().
  app.parse_complete_callback([&level] { init_logging(level); });
  try {
    for (AddCommand add : commands) add(app);
    check_command(app, argc, argv);
    app.parse(argc, argv);
    return 0;
  } catch (const ExitStatus& end) {
    return end.status;
  } catch (const CLI::RequiredError& error) {
    // A misspelt option is the likelier mistake than the one it was meant to be.
    const std::vector<std::string> unknown = app.remaining(true);
    return report(program,
                  unknown.empty() ? fmt::format("{} (see --help)", error.what())
                                  : fmt::format("unknown argument '{}' (see --help)", unknown[0]),
                  2);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(program, fmt::format("{} (see --help)", error.what()), 2);
  } catch (const Error& error) {
    return report(program, error.what(), error.exit_status());
  } catch (const std::bad_alloc&) {
    return report(program, "out of memory", 1);
  } catch (const std::exception& error) {
    return report(program, error.what(), 1);
  }
}

void add_json_flag(CLI::App* command, bool& json) {
  command->add_flag("--json", json, "One machine-readable result on stdout");
}

void print_json(const Node& node) {
  fmt::print("{}\n", write_json(node));
  std::fflush(stdout);
}

void add_threads_option(CLI::App* command, int& threads) {
  command->add_option("-t,--threads", threads, "Threads (default: the cores of this process)")
      ->check(CLI::Range(1, 4096));
}

}  // namespace ashlar::cli

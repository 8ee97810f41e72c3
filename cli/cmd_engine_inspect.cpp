#include "cli/commands.h"
#include "cli/inspect.h"

namespace ashlar::cli {

void add_engine_inspect_command(CLI::App& app) { add_inspect(app, {}); }

}  // namespace ashlar::cli

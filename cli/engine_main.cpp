#include "cli/app.h"
#include "cli/commands.h"

// What a deployment copies: everything that needs no torch.
int main(int argc, char** argv) {
  using namespace ashlar::cli;
  constexpr AddCommand kCommands[] = {add_import_command, add_generate_command,
                                      add_chat_command,   add_engine_eval_command,
                                      add_bench_command,  add_engine_inspect_command};
  return run(argc, argv, "ashlar-engine", "Ashlar's engine: decode models with a small KV cache",
             kCommands);
}

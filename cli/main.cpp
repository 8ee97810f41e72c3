#include "cli/app.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  using namespace ashlar::cli;
  constexpr AddCommand kCommands[] = {
      add_data_command,     add_tokenizer_command, add_plan_command,   add_train_command,
      add_eval_command,     add_quantize_command,  add_export_command, add_import_command,
      add_generate_command, add_chat_command,      add_bench_command,  add_inspect_command};
  return run(argc, argv, "ashlar",
             "Ashlar: language models whose KV cache is small by construction", kCommands);
}

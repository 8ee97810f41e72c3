#pragma once

namespace CLI {
class App;
}

// One function per subcommand, one file per function: cmd_<name>.cpp.
namespace ashlar::cli {

void add_data_command(CLI::App& app);
void add_tokenizer_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_train_command(CLI::App& app);
void add_eval_command(CLI::App& app);
/// eval without the training side: the engine is the only scorer.
void add_engine_eval_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_import_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_chat_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
/// inspect without checkpoints and token shards, which need HDF5.
void add_engine_inspect_command(CLI::App& app);

}  // namespace ashlar::cli

#include "cli/app.h"
#include "cli/commands.h"

// The train command alone, for tests that kill and resume a real process.
int main(int argc, char** argv) {
  constexpr ashlar::cli::AddCommand kCommands[] = {ashlar::cli::add_train_command};
  return ashlar::cli::run(argc, argv, "ashlar", "train only", kCommands);
}

#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "core/io/json.h"
#include "tests/cli/run_command.h"
#include "tests/data/families.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar::cli {

inline constexpr const char* kTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

/// Random weights under the vocabulary of the SmolLM2 family, which has ChatML's tokens.
inline ModelData chat_model(int64_t context = 256, uint64_t seed = 7) {
  ModelData model = test::random_model(
      test::spec_from_yaml(
          "kind: decoder\nvocab_size: 602\ncontext_length: " + std::to_string(context) +
          "\ndecoder: {d_model: 32, layers: 2, attention: {heads: 4, kv_heads: 2, "
          "head_dim: 8}, ffn: {d_ff: 24}}\n"),
      seed);
  model.start_token.reset();
  model.stop_tokens = {};
  model.tokenizer_json = write_json(test_families::shape_of("smollm"));
  model.chat_template = kTemplate;
  return model;
}

/// `ashlar chat ARGUMENTS` with `input` on standard input.
inline test_commands::Outcome chat(const std::filesystem::path& model, const std::string& input,
                                   std::vector<std::string> more = {}) {
  const test::TempDir dir;
  test::write_text(dir / "input.txt", input);
  const int saved = dup(STDIN_FILENO), file = open((dir / "input.txt").c_str(), O_RDONLY);
  dup2(file, STDIN_FILENO);
  constexpr AddCommand kCommands[] = {add_chat_command};
  std::vector<std::string> arguments = {"chat", model.string(), "--max-tokens", "6"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const test_commands::Outcome outcome =
      test_commands::run_command(kCommands, std::move(arguments));
  dup2(saved, STDIN_FILENO);
  close(saved);
  close(file);
  return outcome;
}

inline std::vector<Node> answers(const test_commands::Outcome& outcome) {
  std::vector<Node> out;
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (size_t at = 0; at < outcome.out.size();) {
    const size_t end = outcome.out.find('\n', at);
    out.push_back(parse_json(outcome.out.substr(at, end - at), "stdout"));
    at = end + 1;
  }
  return out;
}

}  // namespace ashlar::cli

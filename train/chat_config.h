#pragma once

#include <filesystem>
#include <string>

#include "core/base/node.h"

namespace ashlar {

/// Conversations as training data: docs/training.md.
struct ChatDataConfig {
  std::filesystem::path file;       ///< .jsonl
  std::filesystem::path tokenizer;  ///< of the model that is tuned: its folder, GGUF, or a file
  std::string format;               ///< chat_format_names; empty: the model's own template
  bool answers_only = true;         ///< what the loss is of; else of every token
  bool pack = false;                ///< several conversations in a sample
  bool skip_long = false;           ///< leave too long conversations out; else cut them
  bool operator==(const ChatDataConfig&) const = default;
};

/// Reads `{chat, tokenizer, template, loss, pack, too_long}`. Throws Error(kRequest)
/// "file:line: key: reason".
ChatDataConfig read_chat_data(const Node& node, const std::string& path);
/// What reads back as the same.
Node chat_data_node(const ChatDataConfig& config);

}  // namespace ashlar

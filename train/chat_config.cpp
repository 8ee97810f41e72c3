#include "train/chat_config.h"

#include "data/tokenizer/chat_template.h"

namespace ashlar {

ChatDataConfig read_chat_data(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  ChatDataConfig config;
  config.file = reader.text("chat");
  config.tokenizer = reader.text("tokenizer");
  if (reader.has("template")) {
    const auto names = chat_format_names();
    config.format = names[reader.choice("template", {names.begin(), names.end()})];
  }
  config.answers_only = reader.choice_or("loss", 0, {"answers", "all"}) == 0;
  config.pack = reader.boolean_or("pack", false);
  config.skip_long = reader.choice_or("too_long", 0, {"cut", "skip"}) == 1;
  reader.finish();
  return config;
}

Node chat_data_node(const ChatDataConfig& config) {
  Node out = Node::Map{{"chat", config.file.string()}, {"tokenizer", config.tokenizer.string()}};
  if (!config.format.empty()) out.set("template", config.format);
  out.set("loss", config.answers_only ? "answers" : "all");
  out.set("pack", config.pack);
  out.set("too_long", config.skip_long ? "skip" : "cut");
  return out;
}

}  // namespace ashlar

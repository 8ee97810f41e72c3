#include "eval/report.h"

#include <fmt/format.h>

namespace ashlar {
namespace {

std::string one_line(const Node& node) {
  if (node.is_string()) return node.as_string();
  if (node.is_bool()) return node.as_bool() ? "true" : "false";
  if (node.is_int()) return std::to_string(node.as_int());
  if (node.is_double()) return fmt::format("{}", node.as_double());
  std::string out;
  const auto add = [&](const std::string& part) { out += (out.empty() ? "" : ", ") + part; };
  if (node.is_list()) {
    for (const Node& value : node.as_list()) add(one_line(value));
    return "[" + out + "]";
  }
  if (!node.is_map()) return "none";
  for (const auto& [key, value] : node.as_map()) {
    add(value.is_map() ? one_line(value) : key + " " + one_line(value));
  }
  return out;
}

}  // namespace

Node to_node(const std::vector<EvalRow>& rows) {
  Node list = Node::list();
  for (const EvalRow& row : rows) {
    list.push(Node::Map{{"task", row.task},
                        {"metric", row.metric},
                        {"value", row.value},
                        {"n", row.n},
                        {"low", row.low},
                        {"high", row.high},
                        {"seconds", row.seconds},
                        {"kv_bytes", row.kv_bytes},
                        {"settings", row.settings}});
  }
  return list;
}

std::string to_markdown(const std::vector<EvalRow>& rows) {
  std::string out =
      "| task | metric | value | 95 % interval | n | seconds | KV bytes |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const EvalRow& row : rows) {
    out += fmt::format("| {} | {} | {:.4f} | {:.4f} – {:.4f} | {} | {:.1f} | {} |\n", row.task,
                       row.metric, row.value, row.low, row.high, row.n, row.seconds, row.kv_bytes);
  }
  std::string said;
  for (const EvalRow& row : rows) {
    const std::string line = one_line(row.settings);
    if (line.empty() || line == said) continue;
    out += "\n" + line + "\n";
    said = line;
  }
  return out;
}

}  // namespace ashlar

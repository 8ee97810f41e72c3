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

Node or_null(const std::optional<double>& value) { return value ? Node(*value) : Node(); }
Node or_null(const std::string& text) { return text.empty() ? Node() : Node(text); }

void set_interval(Node& out, const std::string& key, const std::optional<Interval>& interval) {
  out.set(key, interval ? Node(interval->value) : Node());
  out.set(key + "_low", interval ? Node(interval->low) : Node());
  out.set(key + "_high", interval ? Node(interval->high) : Node());
}

void set_arm(Node& out, const EvalRow& row) {
  const ArmFigures figures = row.arm.value_or(ArmFigures{});
  const bool cached = !figures.arm.policy.empty();
  out.set("policy", or_null(figures.arm.policy));
  out.set("budget", or_null(figures.arm.budget));
  out.set("codec", or_null(figures.arm.codec));
  out.set("kv_bytes", row.kv_bytes);
  out.set("kv_prompt_bytes", row.kv_prompt_bytes);
  out.set("kv_shared_tokens", row.kv_shared_tokens);
  out.set("kv_mean_bytes", cached ? Node(figures.mean_bytes) : Node());
  out.set("kv_share", or_null(figures.share));
  out.set("kv_prompt_share", or_null(figures.prompt_share));
  out.set("pareto", cached ? Node(figures.pareto) : Node());
  std::optional<Interval> absolute, relative;
  if (figures.difference) {
    absolute = figures.difference->absolute;
    relative = figures.difference->relative;
  }
  set_interval(out, "difference", absolute);
  set_interval(out, "relative", relative);
}

}  // namespace

Node to_node(const std::vector<EvalRow>& rows) {
  Node list = Node::list();
  for (const EvalRow& row : rows) {
    Node out = Node::Map{{"task", row.task},
                         {"metric", row.metric},
                         {"value", row.value},
                         {"n", row.n},
                         {"low", row.low},
                         {"high", row.high},
                         {"better", row.lower_is_better ? "lower" : "higher"}};
    set_arm(out, row);
    out.set("seconds", row.seconds);
    out.set("settings", row.settings);
    list.push(std::move(out));
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

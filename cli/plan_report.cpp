#include "cli/plan_report.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "models/spec/parameters.h"

namespace ashlar::cli {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

// 1394304 → "1,394,304".
std::string grouped(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

// 1.2345e9 → "1.23 G" in steps of `base`.
std::string scaled(double value, double base, std::initializer_list<const char*> prefixes) {
  auto prefix = prefixes.begin();
  while (std::abs(value) >= base && std::next(prefix) != prefixes.end()) {
    value /= base;
    ++prefix;
  }
  return fmt::format("{:.2f} {}", value, *prefix);
}

std::string flops(double value) {
  return scaled(value, 1000, {"", "k", "M", "G", "T", "P", "E", "Z"}) + "FLOP";
}

std::string bytes(double value) {
  const std::string exact =
      value == std::floor(value) ? grouped(std::llround(value)) : fmt::format("{:.2f}", value);
  if (value < 1024) return exact + " B";
  return fmt::format("{} B ({}B)", exact, scaled(value, 1024, {"", "Ki", "Mi", "Gi", "Ti"}));
}

std::string duration(double seconds) {
  if (seconds < 1) return fmt::format("{:.3g} ms", 1e3 * seconds);
  if (seconds < 120) return fmt::format("{:.1f} s", seconds);
  if (seconds < 2 * 3600) return fmt::format("{:.1f} min", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.1f} d", seconds / 86400);
}

const char* stack_of(const Plan& plan, const KvGroup& group) {
  return stack_name(plan.spec.stacks[static_cast<size_t>(group.stack)].role);
}

Node parameters_node(const ParameterParts& p) {
  Node stacks = Node::map();
  for (const auto& stack : p.stacks) stacks.set(stack.name, stack.layers);
  return Node::Map{{"token_tables", p.token_tables}, {"embedder", p.embedder},
                   {"layers", std::move(stacks)},    {"final_norms", p.final_norms},
                   {"expansion", p.expansion},       {"head", p.head},
                   {"in_layers", p.in_layers()},     {"norms", p.norms}};
}

Node flops_node(const Flops& f) {
  Node parts = Node::map();
  for (const FlopPart& p : f.parts) {
    parts.set(p.name, Node::Map{{"products", p.products}, {"attention", p.attention}});
  }
  return Node::Map{{"total", f.total()},
                   {"products", f.products()},
                   {"attention", f.attention()},
                   {"parts", std::move(parts)}};
}

Node group_node(const Plan& plan, const KvCost& cost) {
  const KvGroup& g = cost.group;
  Node node = to_node(plan.spec, g);
  node.set("bytes_per_entry", cost.bytes_per_entry);
  node.set("bytes_per_token", cost.bytes_per_token);
  node.set("rows", cost.rows);
  node.set("bytes", cost.bytes);
  node.set("reads_per_token", cost.reads_per_token);
  return node;
}

Node kv_node(const Plan& plan) {
  const KvPlan& kv = plan.kv;
  Node groups = Node::list();
  for (const KvCost& cost : kv.groups) groups.push(group_node(plan, cost));
  return Node::Map{{"bytes_per_element", plan.options.kv_bytes_per_element},
                   {"context", plan.spec.context_length},
                   {"bytes_per_token", kv.bytes_per_token},
                   {"bytes_at_context", kv.bytes_at_context},
                   {"local_bytes_per_sequence", kv.local_bytes},
                   {"reads_per_token", kv.reads_per_token},
                   {"local_reads_per_token", kv.local_reads_per_token},
                   {"multi_head_bytes_per_token", kv.multi_head_bytes_per_token},
                   {"groups", std::move(groups)}};
}

Node memory_node(const TrainingMemory& m) {
  return Node::Map{{"total", m.total()},
                   {"weights", m.weights},
                   {"gradients", m.gradients},
                   {"optimizer", m.optimizer},
                   {"compute_copies", m.compute_copies},
                   {"activations", m.activations},
                   {"average", m.average},
                   {"transient", m.transient},
                   {"checkpoint", m.checkpoint},
                   {"tensors", m.tensors()}};
}

Node step_node(const StepTime& t) {
  return Node::Map{{"seconds", t.total()},
                   {"compute", t.compute},
                   {"communication", t.communication},
                   {"exposed", t.exposed},
                   {"exposed_forward", t.exposed_forward},
                   {"exposed_backward", t.exposed_backward},
                   {"exposed_end", t.exposed_end},
                   {"bytes_sent", t.bytes_sent}};
}

Node run_node(const Plan& plan) {
  const Device& device = find_device(plan.options.device);
  return Node::Map{{"steps", plan.run.steps},
                   {"context", plan.run.context},
                   {"batch_size", plan.run.batch_size},
                   {"micro_batch", plan.run.micro_batch},
                   {"precision", plan.run.bf16 ? "bf16" : "fp32"},
                   {"tokens", plan.run.tokens()},
                   {"flops", plan.run_flops},
                   {"device", device.name},
                   {"ranks", plan.options.ranks},
                   {"micro_batches_per_rank", plan.micro_batches_per_rank},
                   {"peak_flops_per_second", plan.run.bf16 ? device.bf16_peak : device.fp32_peak},
                   {"utilisation", device.utilisation},
                   {"seconds_estimate", plan.seconds},
                   {"zero", plan.run.zero},
                   {"shard_ranks", shards_of(plan.run, plan.options.ranks)},
                   {"step_estimate", step_node(plan.step)}};
}

Node match_node(const PlanMatch& match) {
  const Plan& other = match.other;
  Node node = Node::Map{{"parameters_total", other.parameters.total},
                        {"parameters_body", other.parameters.body},
                        {"kv_bytes_per_token", other.kv.bytes_per_token},
                        {"flops_per_token", other.flops_per_token},
                        {"run_flops", other.run_flops},
                        {"steps_for_equal_flops", match.steps}};
  if (match.scaled) {
    Node changes = Node::list();
    for (const std::string& change : match.scaled->changes) changes.push(change);
    node.set(
        "scaled",
        Node::Map{{"set", std::move(changes)},
                  {"parameters_total", parameter_count(match.scaled->spec)},
                  {"parameters_body", body_parameter_count(match.scaled->spec)},
                  {"kv_bytes_per_token",
                   kv_bytes_per_token(match.scaled->spec, other.options.kv_bytes_per_element)}});
  }
  return node;
}

// Lines of "name value"; a heading without a value opens a section.
class Table {
 public:
  void section(const std::string& name) { text_ += (text_.empty() ? "" : "\n") + name + "\n"; }
  void row(const std::string& name, const std::string& value) {
    text_ += fmt::format("  {:<34} {}\n", name, value);
  }
  void line(const std::string& text) { text_ += "  " + text + "\n"; }
  std::string text() && { return std::move(text_); }

 private:
  std::string text_;
};

void add_parameters(Table& table, const ParameterParts& p) {
  table.section("parameters");
  table.row("token tables", grouped(p.token_tables));
  if (p.embedder > 0) table.row("embedder", grouped(p.embedder));
  for (const auto& stack : p.stacks) {
    table.row(fmt::format("layers of {}", stack.name), grouped(stack.layers));
  }
  if (p.expansion > 0) table.row("expansion", grouped(p.expansion));
  table.row("final norms", grouped(p.final_norms));
  table.row("head", p.head > 0 ? grouped(p.head) : "0 (tied)");
  table.row("total", grouped(p.total));
  table.row("body (no tables, head, norm gains)", grouped(p.body));
}

void add_flops(Table& table, const Plan& plan) {
  table.section("FLOPs per token (2 per multiply-accumulate)");
  const auto line = [](const Flops& f) {
    return fmt::format("{} ({} products + {} attention)", flops(f.total()), flops(f.products()),
                       flops(f.attention()));
  };
  table.row("training, forward", line(plan.training));
  table.row("training, forward and backward", flops(plan.flops_per_token));
  table.row(fmt::format("prefill of {}", plan.spec.context_length), line(plan.prefill));
  table.row(fmt::format("decode behind {}", plan.spec.context_length), line(plan.decode));
}

void add_kv(Table& table, const Plan& plan) {
  const KvPlan& kv = plan.kv;
  table.section(fmt::format("KV cache at {} bytes per element", plan.options.kv_bytes_per_element));
  table.row("per token", bytes(kv.bytes_per_token));
  table.row("multi-head attention, per token",
            fmt::format("{} ({:.1f}×)", bytes(kv.multi_head_bytes_per_token),
                        kv.multi_head_bytes_per_token / kv.bytes_per_token));
  table.row(fmt::format("at {} tokens", plan.spec.context_length), bytes(kv.bytes_at_context));
  if (plan.spec.block) table.row("within a block, per sequence", bytes(kv.local_bytes));
  table.row("read per generated token", bytes(kv.reads_per_token));
  if (plan.spec.block) table.row("read within the block", bytes(kv.local_reads_per_token));
  table.line(fmt::format("{:>5} {:<8} {:>5} {:>7} {:<7} {:>6} {:>6} {:>8} {:>11} {:>11}", "group",
                         "stack", "owner", "readers", "kind", "tokens", "window", "rows", "B/row",
                         "B/token"));
  for (const KvCost& cost : kv.groups) {
    const KvGroup& g = cost.group;
    table.line(fmt::format(
        "{:>5} {:<8} {:>5} {:>7} {:<7} {:>6} {:>6} {:>8} {:>11} {:>11}", g.id, stack_of(plan, g),
        g.owner, g.readers.size(), kv_kind_name(g.kind), g.entry_tokens,
        g.window == 0 ? "-" : std::to_string(g.window), cost.rows, cost.bytes_per_entry,
        g.lifetime == KvLifetime::kBlock ? "block" : fmt::format("{}", cost.bytes_per_token)));
  }
}

void add_run(Table& table, const Plan& plan) {
  const TrainingMemory& m = plan.memory;
  const Device& device = find_device(plan.options.device);
  table.section(fmt::format("training memory per rank of {}, ZeRO {} (estimate)",
                            plan.options.ranks, plan.run.zero));
  table.row("weights", bytes(m.weights));
  table.row("gradients", bytes(m.gradients));
  table.row("optimizer state", bytes(m.optimizer));
  if (m.average > 0) table.row("averaged weights", bytes(m.average));
  table.row("copies for products, head gradient", bytes(m.compute_copies));
  table.row("gathered, and under way", bytes(m.transient));
  table.row(fmt::format("activations, micro-batch of {}", plan.run.micro_batch),
            bytes(m.activations));
  if (m.checkpoint > 0) table.row("a checkpoint's copy", bytes(m.checkpoint));
  std::string total = bytes(m.total());
  if (device.memory_bytes > 0) {
    total += fmt::format(", {:.0f} % of the device", 100 * m.total() / device.memory_bytes);
  }
  table.row("total", total);
  table.section("run");
  table.row("tokens", fmt::format("{} ({} steps × {} samples × {})", grouped(plan.run.tokens()),
                                  grouped(plan.run.steps), grouped(plan.run.batch_size),
                                  grouped(plan.run.context)));
  table.row("FLOPs", flops(plan.run_flops));
  table.row("time (estimate)",
            fmt::format("{} on {} × {} at {:.0f} % of {:.4g} TFLOP/s {}", duration(plan.seconds),
                        plan.options.ranks, device.description, 100 * device.utilisation,
                        (plan.run.bf16 ? device.bf16_peak : device.fp32_peak) / 1e12,
                        plan.run.bf16 ? "bf16" : "fp32"));
}

void add_step(Table& table, const Plan& plan) {
  const StepTime& t = plan.step;
  table.section("a step (estimate)");
  table.row("computation", duration(t.compute));
  table.row("communication",
            fmt::format("{}, {} sent", duration(t.communication), bytes(std::floor(t.bytes_sent))));
  table.row("  not hidden", fmt::format("{} (forward {}, backward {}, end {})", duration(t.exposed),
                                        duration(t.exposed_forward), duration(t.exposed_backward),
                                        duration(t.exposed_end)));
  table.row("step", duration(t.total()));
}

void add_match(Table& table, const Plan& plan, const PlanMatch& match) {
  const Plan& other = match.other;
  table.section("match");
  table.line(fmt::format("{:<22} {:>28} {:>28}", "", "this", "other"));
  const auto row = [&](const char* name, const std::string& a, const std::string& b) {
    table.line(fmt::format("{:<22} {:>28} {:>28}", name, a, b));
  };
  row("parameters", grouped(plan.parameters.total), grouped(other.parameters.total));
  row("body", grouped(plan.parameters.body), grouped(other.parameters.body));
  row("KV per token", bytes(plan.kv.bytes_per_token), bytes(other.kv.bytes_per_token));
  row("training FLOPs/token", flops(plan.flops_per_token), flops(other.flops_per_token));
  row("steps", grouped(plan.run.steps), grouped(other.run.steps));
  row("run", flops(plan.run_flops), flops(other.run_flops));
  table.row("steps for the other's FLOPs",
            fmt::format("--set train.steps={} ({:.4f} of this run's)", match.steps,
                        real(match.steps) / real(plan.run.steps)));
  if (!match.scaled) return;
  std::string sets;
  for (const std::string& change : match.scaled->changes) sets += " --set " + change;
  table.row("for the other's parameters", sets.substr(1));
  table.row(
      "  gives",
      fmt::format(
          "{} parameters ({:+.2f} %)", grouped(parameter_count(match.scaled->spec)),
          100 * (real(parameter_count(match.scaled->spec)) / real(other.parameters.total) - 1)));
}

}  // namespace

Node plan_node(const Plan& plan, const PlanMatch* match) {
  Node node = Node::Map{{"parameters_total", plan.parameters.total},
                        {"parameters_body", plan.parameters.body},
                        {"kv_bytes_per_token", plan.kv.bytes_per_token},
                        {"flops_per_token", plan.flops_per_token},
                        {"parameters", parameters_node(plan.parameters)},
                        {"flops", Node::Map{{"training_forward", flops_node(plan.training)},
                                            {"prefill", flops_node(plan.prefill)},
                                            {"decode", flops_node(plan.decode)}}},
                        {"kv", kv_node(plan)},
                        {"training_memory_estimate", memory_node(plan.memory)},
                        {"run", run_node(plan)}};
  if (match != nullptr) node.set("match", match_node(*match));
  return node;
}

std::string plan_table(const Plan& plan, const PlanMatch* match) {
  Table table;
  add_parameters(table, plan.parameters);
  add_flops(table, plan);
  add_kv(table, plan);
  add_run(table, plan);
  add_step(table, plan);
  if (match != nullptr) add_match(table, plan, *match);
  return std::move(table).text();
}

}  // namespace ashlar::cli

#include "train/optim/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/glob.h"

namespace ashlar {
namespace {

constexpr int64_t kMostSteps = int64_t{1} << 40;
// The order of the enumerators.
const std::vector<std::string_view> kOptimizers = {"adamw", "lion", "muon"};
const std::vector<std::string_view> kScales = {"rms", "original"};

template <typename Enum>
Node name_of(const std::vector<std::string_view>& names, Enum value) {
  return names.at(static_cast<size_t>(value));
}

double read_lr(NodeReader& reader) { return reader.number("lr", 1e-12, 100.0); }

void read_betas(NodeReader& reader, double& beta1, double& beta2) {
  const Node* betas = reader.optional("betas");
  if (betas == nullptr) return;
  const auto& list = betas->as_list();
  if (list.size() != 2) fail_at(*betas, reader.key_path("betas"), "expected two numbers");
  beta1 = list[0].as_double();
  beta2 = list[1].as_double();
  for (const double beta : {beta1, beta2}) {
    if (!(beta >= 0 && beta < 1)) {
      fail_at(*betas, reader.key_path("betas"), fmt::format("{} is not in [0, 1)", beta));
    }
  }
}

double read_decay(NodeReader& reader, double value) {
  return reader.number_or("weight_decay", value, 0.0, 10.0);
}

// Moonlight's scale gives updates the size of AdamW's, so both may share one rate; the original one
// does not.
void read_muon(NodeReader& reader, OptimizerConfig& config) {
  config.momentum = reader.number_or("momentum", config.momentum, 0.0, 0.999999);
  config.scale = static_cast<MuonScale>(reader.choice_or("scale", 0, kScales));
  config.adamw.weight_decay = config.weight_decay;
  config.adamw.lr = config.lr;
  const Node* rest = reader.optional("adamw");
  if (rest == nullptr) {
    if (config.scale == MuonScale::kOriginal) {
      fail_at(reader.required("scale"), reader.key_path("adamw"),
              "scale original needs adamw: {lr: ...} for tables, heads, norms and biases, whose "
              "updates are of another size");
    }
    return;
  }
  NodeReader values(*rest, reader.key_path("adamw"));
  if (config.scale == MuonScale::kOriginal || values.has("lr")) config.adamw.lr = read_lr(values);
  read_betas(values, config.adamw.beta1, config.adamw.beta2);
  config.adamw.eps = values.number_or("eps", config.adamw.eps, 1e-20, 1.0);
  config.adamw.weight_decay = read_decay(values, config.adamw.weight_decay);
  values.finish();
}

ParameterGroup read_group(const Node& node, const std::string& path,
                          std::span<const ParameterSpec> specs) {
  NodeReader reader(node, path);
  ParameterGroup group;
  group.match = reader.text("match");
  if (reader.has("weight_decay")) group.weight_decay = read_decay(reader, 0);
  if (reader.has("lr_scale")) group.lr_scale = reader.number("lr_scale", 0.0, 1e4);
  reader.finish();
  if (!group.weight_decay && !group.lr_scale) {
    fail_at(node, path, "needs weight_decay or lr_scale");
  }
  const bool any = std::any_of(specs.begin(), specs.end(), [&](const ParameterSpec& p) {
    return glob_match(group.match, p.name);
  });
  if (!any) {
    fail_at(reader.required("match"), path + ".match",
            fmt::format("'{}' matches no parameter, such as {}", group.match,
                        specs.empty() ? std::string("none") : specs.front().name));
  }
  return group;
}

Node betas_node(double beta1, double beta2) { return Node::List{beta1, beta2}; }

Node adamw_node(const AdamWOptions& o) {
  return Node::Map{{"lr", o.lr},
                   {"betas", betas_node(o.beta1, o.beta2)},
                   {"eps", o.eps},
                   {"weight_decay", o.weight_decay}};
}

Node group_node(const ParameterGroup& group) {
  Node out = Node::Map{{"match", group.match}};
  if (group.weight_decay) out.set("weight_decay", *group.weight_decay);
  if (group.lr_scale) out.set("lr_scale", *group.lr_scale);
  return out;
}

}  // namespace

std::vector<ParameterPolicy> parameter_policies(const OptimizerConfig& config,
                                                std::span<const ParameterSpec> specs) {
  std::vector<ParameterPolicy> out;
  for (const ParameterSpec& p : specs) {
    const bool decays = p.is_matrix() && !p.is_adapter();
    ParameterPolicy policy{config.kind, 1.0, decays ? config.weight_decay : 0.0};
    if (config.kind == OptimizerKind::kMuon && !(p.is_linear() && p.layer >= 0)) {
      policy = {OptimizerKind::kAdamW, config.adamw.lr / config.lr,
                decays ? config.adamw.weight_decay : 0.0};
    }
    double scale = 1;
    for (const ParameterGroup& group : config.groups) {
      if (!glob_match(group.match, p.name)) continue;
      policy.weight_decay = group.weight_decay.value_or(policy.weight_decay);
      scale = group.lr_scale.value_or(scale);
    }
    policy.lr_scale *= scale;
    const bool fits = policy.kind == OptimizerKind::kMuon && config.scale == MuonScale::kOriginal;
    if (!config.width_ratios.empty() && p.is_linear() && !fits) {
      const double m = config.width_ratios.at(static_cast<size_t>(p.stack));
      policy.lr_scale /= m;
      policy.weight_decay *= m;
    }
    out.push_back(policy);
  }
  return out;
}

OptimizerConfig read_optimizer(const Node& node, std::span<const ParameterSpec> specs) {
  NodeReader reader(node, "optimizer");
  OptimizerConfig config;
  config.kind = static_cast<OptimizerKind>(reader.choice_or("kind", 0, kOptimizers));
  config.lr = read_lr(reader);
  config.weight_decay = read_decay(reader, config.weight_decay);
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      read_betas(reader, config.beta1, config.beta2);
      config.eps = reader.number_or("eps", config.eps, 1e-20, 1.0);
      break;
    case OptimizerKind::kLion:
      config.beta2 = 0.99;
      read_betas(reader, config.beta1, config.beta2);
      break;
    case OptimizerKind::kMuon:
      read_muon(reader, config);
      break;
  }
  config.clip = reader.number_or("clip", config.clip, 0.0, 1e6);
  if (const Node* groups = reader.optional("groups")) {
    for (const Node& group : groups->as_list()) {
      const std::string path = fmt::format("optimizer.groups[{}]", config.groups.size());
      config.groups.push_back(read_group(group, path, specs));
    }
  }
  reader.finish();
  return config;
}

Node optimizer_node(const OptimizerConfig& c) {
  Node out = Node::Map{{"kind", name_of(kOptimizers, c.kind)}, {"lr", c.lr}};
  if (c.kind == OptimizerKind::kMuon) {
    out.set("momentum", c.momentum);
    out.set("scale", name_of(kScales, c.scale));
    out.set("adamw", adamw_node(c.adamw));
  } else {
    out.set("betas", betas_node(c.beta1, c.beta2));
  }
  if (c.kind == OptimizerKind::kAdamW) out.set("eps", c.eps);
  out.set("weight_decay", c.weight_decay);
  out.set("clip", c.clip);
  if (!c.groups.empty()) {
    Node groups = Node::list();
    for (const ParameterGroup& group : c.groups) groups.push(group_node(group));
    out.set("groups", std::move(groups));
  }
  return out;
}

EmaConfig read_ema(const Node& node) {
  NodeReader reader(node, "ema");
  EmaConfig config;
  config.decay = reader.number_or("decay", config.decay, 0.0, 1.0);
  config.every = reader.integer_or("every", config.every, 1, kMostSteps);
  config.warmup = reader.boolean_or("warmup", config.warmup);
  reader.finish();
  return config;
}

Node ema_node(const EmaConfig& c) {
  return Node::Map{{"decay", c.decay}, {"every", c.every}, {"warmup", c.warmup}};
}

}  // namespace ashlar

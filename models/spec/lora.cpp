#include "models/spec/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/glob.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr uint64_t kLoraStream = 0x61726f6c00000000;  // keeps these draws apart from others

bool targets(const LoraSpec& lora, const ParameterSpec& p) {
  return p.is_linear() && std::any_of(lora.targets.begin(), lora.targets.end(),
                                      [&](const auto& glob) { return glob_match(glob, p.name); });
}

// The matrices that one glob means.
void check_target(const Node& node, const std::string& key, const LoraSpec& lora,
                  std::span<const ParameterSpec> specs) {
  const std::string& glob = node.as_string();
  bool any = false;
  for (const ParameterSpec& p : specs) {
    if (!p.is_linear() || !glob_match(glob, p.name)) continue;
    any = true;
    const int64_t side = std::min(p.shape[0], p.shape[1]);
    if (lora.rank > side) {
      fail_at(node, "lora.rank",
              fmt::format("{} exceeds the smaller side of {} [{}, {}]", lora.rank, p.name,
                          p.shape[0], p.shape[1]));
    }
  }
  if (!any) fail_at(node, key, fmt::format("'{}' matches no linear map of the model", glob));
}

}  // namespace

LoraSpec read_lora(const Node& node, std::span<const ParameterSpec> specs) {
  NodeReader reader(node, "lora");
  LoraSpec lora;
  lora.rank = reader.integer_or("rank", lora.rank, 1, 4096);
  lora.alpha = reader.number_or("alpha", lora.alpha, 1e-6, 1e6);
  const Node& list = reader.required("targets");
  for (const Node& glob : list.as_list()) {
    check_target(glob, fmt::format("lora.targets[{}]", lora.targets.size()), lora, specs);
    lora.targets.push_back(glob.as_string());
  }
  if (lora.targets.empty()) fail_at(list, "lora.targets", "an empty list");
  reader.finish();
  return lora;
}

Node lora_node(const LoraSpec& lora) {
  Node globs = Node::list();
  for (const std::string& glob : lora.targets) globs.push(glob);
  return Node::Map{{"rank", lora.rank}, {"alpha", lora.alpha}, {"targets", std::move(globs)}};
}

std::vector<LoraAdapter> lora_adapters(const LoraSpec& lora, std::span<const ParameterSpec> specs) {
  std::vector<LoraAdapter> out;
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& p = specs[i];
    if (!targets(lora, p)) continue;
    out.push_back(
        {i,
         {p.name + ".lora_a", {lora.rank, p.shape[1]}, ParameterRole::kLoraDown, p.stack, p.layer},
         {p.name + ".lora_b", {p.shape[0], lora.rank}, ParameterRole::kLoraUp, p.stack, p.layer}});
  }
  return out;
}

std::vector<float> init_adapter(const ParameterSpec& matrix, size_t target, uint64_t seed) {
  ASHLAR_CHECK(matrix.is_adapter());
  std::vector<float> out(static_cast<size_t>(matrix.numel()), 0.0f);
  if (matrix.role == ParameterRole::kLoraUp) return out;
  const Philox random(seed, kLoraStream + target);
  const double deviation = 1.0 / std::sqrt(static_cast<double>(matrix.shape[1]));
  for (size_t e = 0; e < out.size(); ++e) {
    out[e] = static_cast<float>(deviation * random.normal(e));
  }
  return out;
}

std::vector<float> merge_adapter(std::span<const float> weight, std::span<const float> down,
                                 std::span<const float> up, int64_t rank, double scale) {
  ASHLAR_CHECK_GT(rank, 0);
  const auto r = static_cast<size_t>(rank), in = down.size() / r, out = up.size() / r;
  ASHLAR_CHECK(down.size() == r * in && up.size() == r * out && weight.size() == out * in);
  std::vector<float> merged(weight.size());
  std::vector<double> row(in);
  for (size_t o = 0; o < out; ++o) {
    std::fill(row.begin(), row.end(), 0.0);
    for (size_t k = 0; k < r; ++k) {
      const auto factor = static_cast<double>(up[o * r + k]);
      for (size_t i = 0; i < in; ++i) row[i] += factor * static_cast<double>(down[k * in + i]);
    }
    for (size_t i = 0; i < in; ++i) {
      const size_t at = o * in + i;
      merged[at] = static_cast<float>(static_cast<double>(weight[at]) + scale * row[i]);
    }
  }
  return merged;
}

}  // namespace ashlar

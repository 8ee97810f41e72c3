#include "eval/fidelity.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {
namespace {

// Numbers of an item: how many queries, sums over them, then pairs of a sum and its count: all
// layers, all groups, each layer, each group.
enum Value {
  kQueries,
  kKl,
  kAgreements,
  kAllLayers,
  kAllGroups = kAllLayers + 2,
  kParts = kAllGroups + 2
};

void add(const std::vector<std::optional<double>>& values, double* all, double* each) {
  for (const std::optional<double>& value : values) {
    for (double* at : {all, each}) {
      at[0] += value.value_or(0);
      at[1] += value.has_value() ? 1 : 0;
    }
    each += 2;
  }
}

// One item of every arm.
ArmResults compare_item(FidelityProbe& probe, const std::vector<ScoreText>& texts, size_t arms) {
  const size_t layers = probe.layers().size(), groups = probe.groups().size();
  ItemResult empty;
  empty.values.assign(kParts + 2 * (layers + groups), 0.0);
  ArmResults results(arms, std::vector<ItemResult>{empty});
  for (const ScoreText& text : texts) {
    const auto bytes = probe.compare(text, [&](size_t arm, const FidelityRow& row) {
      ASHLAR_CHECK(row.output_error.size() == layers && row.retained_mass.size() == groups);
      double* out = results[arm][0].values.data();
      out[kQueries] += 1;
      out[kKl] += row.kl;
      out[kAgreements] += row.agrees ? 1 : 0;
      add(row.output_error, out + kAllLayers, out + kParts);
      add(row.retained_mass, out + kAllGroups, out + kParts + 2 * layers);
    });
    ASHLAR_CHECK_EQ(bytes.size(), arms);
    for (size_t arm = 0; arm < arms; ++arm) {
      ItemResult& result = results[arm][0];
      result.kv_bytes = std::max(result.kv_bytes, bytes[arm].end);
      result.kv_prompt_bytes = std::max(result.kv_prompt_bytes, bytes[arm].prompt);
    }
  }
  return results;
}

std::vector<Metric> metrics_of(const FidelityProbe& probe, const std::string& task, int64_t size) {
  const auto metric = [&](const std::string& name, int numerator, int denominator) {
    const bool error = name == "kl" || name.starts_with("output_error");
    return Metric{task, name, 0, size, numerator, denominator, Transform::kPlain, 1, error};
  };
  std::vector<Metric> out{metric("kl", kKl, kQueries),
                          metric("top1_agreement", kAgreements, kQueries),
                          metric("output_error", kAllLayers, kAllLayers + 1),
                          metric("retained_mass", kAllGroups, kAllGroups + 1)};
  int next = kParts;
  for (const std::string& name : probe.layers()) {
    out.push_back(metric("output_error[" + name + "]", next, next + 1));
    next += 2;
  }
  for (const std::string& name : probe.groups()) {
    out.push_back(metric("retained_mass[" + name + "]", next, next + 1));
    next += 2;
  }
  return out;
}

bool streams(const ScoreText& text) {
  return text.prompt >= 0 && text.prompt + 1 < static_cast<int64_t>(text.tokens.size());
}

}  // namespace

std::vector<EvalRow> evaluate_fidelity(FidelityProbe& probe, const EvalTask& task,
                                       const EvaluateOptions& options) {
  const std::string name = task.name() + " fidelity";
  const Node settings = merged({options.settings, task.settings()});
  const std::vector<Arm> arms = probe.arms();
  const ArmResults results =
      run_items(name, settings, arms, task.size(), 1, options.log, [&](int64_t first, int64_t) {
        const std::vector<ScoreText> texts = task.texts(first);
        for (const ScoreText& text : texts) {
          require(streams(text), ErrorCode::kRequest,
                  "{}: item {} is read as one prompt, so there is nothing to compare: fidelity is "
                  "of tokens that come one at a time",
                  task.name(), first);
        }
        return compare_item(probe, texts, arms.size());
      });
  const std::vector<Metric> metrics = metrics_of(probe, name, task.size());
  return rows_of(metrics, arms, results, options.bootstrap, settings);
}

}  // namespace ashlar

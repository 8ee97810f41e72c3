#include "data/tasks/mqar.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "data/tasks/draws.h"
#include "data/tasks/options.h"

namespace ashlar {
namespace {

constexpr uint64_t kTask = 0x6d716172;  // "mqar"

struct NamedConfig {
  std::string_view name;
  std::vector<MqarShape> shapes;
};

// Figure 2 of the paper, and the lists of the authors' repository in 2026 (100k examples of the
// first training shape for 20k of each other one).
const std::vector<NamedConfig>& configs() {
  static const std::vector<NamedConfig> list = {
      {"figure2", {{64, 4, 1}, {128, 8, 1}, {256, 16, 1}}},
      {"2026_train", {{64, 4, 5}, {128, 8, 1}, {256, 16, 1}, {256, 32, 1}, {256, 64, 1}}},
      {"2026_test",
       {{64, 4, 1},
        {64, 8, 1},
        {64, 16, 1},
        {128, 32, 1},
        {256, 64, 1},
        {512, 128, 1},
        {1024, 256, 1}}},
  };
  return list;
}

struct Settings {
  std::vector<MqarShape> shapes;
  int64_t vocab = 0;
  double power_a = 0;
  int64_t updates = 0, passes = 0;
  bool random_filler = true;
  uint64_t seed = 0;
  Node all;
};

int64_t context_of(const Settings& s, const MqarShape& shape) {
  return 2 * (shape.pairs * s.passes + s.updates);
}

void check(const Settings& s, const TaskOptions& options) {
  for (const MqarShape& shape : s.shapes) {
    const int64_t context = context_of(s, shape);
    if (shape.length % 2 != 0) options.refuse("length", "must be even: pairs of tokens");
    if (context + 2 * shape.pairs > shape.length) {
      options.refuse("length",
                     fmt::format("{} tokens do not hold {} pairs in {} tokens and a question for "
                                 "each: at least {}",
                                 shape.length, shape.pairs, context, context + 2 * shape.pairs));
    }
    if (shape.pairs >= s.vocab / 2) {
      options.refuse("vocab",
                     fmt::format("{} has keys for fewer than {} pairs", s.vocab, shape.pairs));
    }
    if (s.updates > shape.pairs) {
      options.refuse("updates", fmt::format("more than the {} pairs", shape.pairs));
    }
  }
  if (s.updates > 0 && s.passes > 1) options.refuse("updates", "cannot be combined with passes");
}

class Mqar final : public TaskGenerator {
 public:
  explicit Mqar(Settings settings) : s_(std::move(settings)) {
    for (const MqarShape& shape : s_.shapes) {
      max_tokens_ = std::max(max_tokens_, shape.length);
      total_weight_ += shape.weight;
      const int64_t places = (shape.length - context_of(s_, shape)) / 2;
      std::vector<double> weights;
      for (int64_t g = 1; g <= places; ++g) {
        weights.push_back(s_.power_a * std::pow(static_cast<double>(g), s_.power_a - 1));
      }
      gap_weights_.push_back(std::move(weights));
    }
  }

  TaskExample example(uint64_t index) const override {
    Draws draws(s_.seed, kTask, index);
    const size_t which = shape_of(index);
    const MqarShape& shape = s_.shapes[which];
    const auto pairs = static_cast<size_t>(shape.pairs);
    const auto keys = draws.distinct(1, s_.vocab / 2, shape.pairs);
    auto values = draws.distinct(s_.vocab / 2, s_.vocab, shape.pairs);

    TaskExample out;
    const auto put = [&](size_t pair) {
      out.tokens.push_back(static_cast<int32_t>(keys[pair]));
      out.tokens.push_back(static_cast<int32_t>(values[pair]));
    };
    for (int64_t pass = 0; pass < s_.passes; ++pass) {
      for (size_t i = 0; i < pairs; ++i) put(i);
    }
    for (int64_t pair : draws.distinct(0, shape.pairs, s_.updates)) {
      const auto p = static_cast<size_t>(pair);
      const int64_t other = draws.between(s_.vocab / 2, s_.vocab - 1);
      values[p] = other + (other >= values[p] ? 1 : 0);  // any value but the old one
      put(p);
    }
    out.context = static_cast<int64_t>(out.tokens.size());
    ask(out, keys, values, draws, which);
    return out;
  }

  int64_t vocab_size() const override { return s_.vocab; }
  int64_t max_tokens() const override { return max_tokens_; }

  Node settings() const override { return s_.all; }

 private:
  size_t shape_of(uint64_t index) const {
    auto place = static_cast<int64_t>(index % static_cast<uint64_t>(total_weight_));
    size_t which = 0;
    while (place >= s_.shapes[which].weight) place -= s_.shapes[which++].weight;
    return which;
  }

  // Fillers to the example's length, then every key once and its value as the answer.
  void ask(TaskExample& out, const std::vector<int64_t>& keys, const std::vector<int64_t>& values,
           Draws& draws, size_t which) const {
    const auto length = static_cast<size_t>(s_.shapes[which].length);
    while (out.tokens.size() < length) {
      out.tokens.push_back(s_.random_filler ? static_cast<int32_t>(draws.below(s_.vocab)) : 0);
    }
    out.answer.assign(length, 0);
    const auto gaps = draws.distinct_weighted(gap_weights_[which], std::ssize(keys));
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto place = static_cast<size_t>(out.context + 2 * gaps[i]);
      out.tokens[place] = static_cast<int32_t>(keys[i]);
      out.tokens[place + 1] = static_cast<int32_t>(values[i]);
      out.answer[place + 1] = 1;
    }
  }

  Settings s_;
  int64_t max_tokens_ = 0, total_weight_ = 0;
  std::vector<std::vector<double>> gap_weights_;  ///< per shape
};

}  // namespace

const std::vector<MqarShape>* find_mqar_config(std::string_view name) {
  for (const NamedConfig& config : configs()) {
    if (config.name == name) return &config.shapes;
  }
  return nullptr;
}

std::vector<std::string_view> mqar_config_names() {
  std::vector<std::string_view> names;
  for (const NamedConfig& config : configs()) names.push_back(config.name);
  return names;
}

std::unique_ptr<TaskGenerator> make_mqar(const Node& node) {
  TaskOptions options("mqar", node);
  Settings s;
  s.vocab = options.integer("vocab", 8192, 4, kMostTaskTokens);
  if (options.has("config")) {
    const auto names = mqar_config_names();
    const std::string_view name = names[options.choice("config", 0, names)];
    s.shapes = *find_mqar_config(name);
    for (const char* key : {"length", "pairs"}) {
      if (options.has(key)) options.refuse(key, fmt::format("config '{}' says it already", name));
    }
  } else {
    const int64_t length = options.integer("length", 64, 4, kMostTaskTokens);
    s.shapes = {{length, options.integer("pairs", 4, 1, kMostTaskTokens), 1}};
  }
  s.power_a = options.number("power_a", 0.01, 1e-6, 1e3);
  s.passes = options.integer("passes", 1, 1, 1024);
  s.updates = options.integer("updates", 0, 0, kMostTaskTokens);
  s.random_filler = options.choice("filler", 0, {"random", "zero"}) == 0;
  s.seed = options.seed();
  s.all = options.finish();
  check(s, options);
  return std::make_unique<Mqar>(std::move(s));
}

}  // namespace ashlar

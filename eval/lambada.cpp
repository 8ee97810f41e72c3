#include "eval/lambada.h"

namespace ashlar {
namespace {

enum Value { kCorrect, kNll, kTokens };

class Lambada final : public FileTask {
 public:
  Lambada(const std::string& name, const std::string& file, const Node& node, int64_t limit,
          const TaskModel& model)
      : FileTask(name, file, model) {
    NodeReader options(node);
    read_common(options);
    options.finish();
    for (const Continuation& item : read_continuations(file)) {
      if (limit > 0 && size() >= limit) break;
      add({continuation(item)});
    }
    finish();
  }

  std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const override {
    const TextScore& score = scores[0];
    return {greedy_match(texts(item)[0], score) ? 1.0 : 0.0, -log_likelihood(score),
            static_cast<double>(score.tokens.size())};
  }

  std::vector<Metric> metrics() const override {
    return {{name(), "accuracy", 0, size(), kCorrect},
            {name(), "perplexity", 0, size(), kNll, -1, Transform::kExp, 1, true},
            {name(), "token_perplexity", 0, size(), kNll, kTokens, Transform::kExp, 1, true}};
  }
};

}  // namespace

std::unique_ptr<EvalTask> make_lambada(const std::string& name, const std::string& file,
                                       const Node& options, int64_t limit, const TaskModel& model) {
  return std::make_unique<Lambada>(name, file, options, limit, model);
}

}  // namespace ashlar

#include "eval/blimp.h"

namespace ashlar {
namespace {

enum Value { kCorrect, kGood, kBad };

class Blimp final : public FileTask {
 public:
  Blimp(const std::string& name, const std::string& file, const Node& node, int64_t limit,
        const TaskModel& model)
      : FileTask(name, file, model) {
    NodeReader options(node);
    read_common(options);
    options.finish();
    note("per_set", limit > 0 ? Node(limit) : Node("all"));
    const std::vector<MinimalPair> pairs = read_blimp(file, limit);
    metrics_ = {accuracy(name, 0, std::ssize(pairs))};
    std::vector<Metric> sets;
    // Items are sorted: phenomena and sets are runs.
    for (int64_t first = 0; first < std::ssize(pairs);) {
      const MinimalPair& pair = pairs[static_cast<size_t>(first)];
      int64_t last = first;
      for (; last < std::ssize(pairs); ++last) {
        const MinimalPair& other = pairs[static_cast<size_t>(last)];
        if (other.phenomenon != pair.phenomenon || other.set != pair.set) break;
      }
      const std::string phenomenon = name + "/" + pair.phenomenon;
      if (metrics_.back().task == phenomenon) {
        metrics_.back().last = last;
      } else {
        metrics_.push_back(accuracy(phenomenon, first, last));
      }
      sets.push_back(accuracy(phenomenon + "/" + pair.set, first, last));
      first = last;
    }
    metrics_.insert(metrics_.end(), sets.begin(), sets.end());
    for (const MinimalPair& pair : pairs) add({sentence(pair.good), sentence(pair.bad)});
    finish();
  }

  std::vector<double> measure(int64_t, std::span<const TextScore> scores) const override {
    const double good = log_likelihood(scores[0]), bad = log_likelihood(scores[1]);
    return {good > bad ? 1.0 : 0.0, good, bad};
  }

  std::vector<Metric> metrics() const override { return metrics_; }

 private:
  static Metric accuracy(std::string task, int64_t first, int64_t last) {
    return {std::move(task), "accuracy", first, last, kCorrect};
  }
  ScoreText sentence(const std::string& text) const {
    ScoreText out;
    out.tokens = tokenizer_.encode(text);
    if (evicts_) out.prompt = 0;
    return out;
  }

  std::vector<Metric> metrics_;
};

}  // namespace

std::unique_ptr<EvalTask> make_blimp(const std::string& name, const std::string& file,
                                     const Node& options, int64_t limit, const TaskModel& model) {
  return std::make_unique<Blimp>(name, file, options, limit, model);
}

}  // namespace ashlar

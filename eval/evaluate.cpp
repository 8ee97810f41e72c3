#include "eval/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/base/error.h"
#include "core/base/progress.h"

namespace ashlar {
namespace {

// A rounding error above zero is tolerable, NaN and infinity are not.
void check_scores(const TextScore& score, const ScoreText& text) {
  ASHLAR_CHECK_EQ(score.tokens.size() + static_cast<size_t>(text.scored), text.tokens.size());
  for (size_t i = 0; i < score.tokens.size(); ++i) {
    const double log_p = score.tokens[i].log_p;
    require(std::isfinite(log_p) && log_p < 1e-3, ErrorCode::kInternal,
            "log-probability of token {} is {}", text.scored + static_cast<int64_t>(i), log_p);
  }
}

// The texts of consecutive items, checked.
struct Texts {
  std::vector<ScoreText> all;
  std::vector<size_t> begins{0};  // first text of each item, and the end
};

Texts texts_of(const Scorer& scorer, const EvalTask& task, int64_t first, int64_t last) {
  Texts texts;
  for (int64_t item = first; item < last; ++item) {
    for (ScoreText& text : task.texts(item)) {
      try {
        check_text(scorer, text);
      } catch (const Error& error) {
        fail(error.code(), "{}: item {}: {}", task.name(), item, error.what());
      }
      texts.all.push_back(std::move(text));
    }
    texts.begins.push_back(texts.all.size());
  }
  return texts;
}

// Scores the texts of items [first, last), `batch` at a time, whatever item they belong to.
ArmResults score_items(Scorer& scorer, const EvalTask& task, int64_t first, int64_t last,
                       int64_t batch, size_t arms) {
  const Texts texts = texts_of(scorer, task, first, last);
  std::vector<std::vector<TextScore>> scores(arms);
  for (size_t at = 0; at < texts.all.size(); at += static_cast<size_t>(batch)) {
    const size_t count = std::min(static_cast<size_t>(batch), texts.all.size() - at);
    auto part = scorer.score_arms(std::span(texts.all).subspan(at, count));
    ASHLAR_CHECK_EQ(part.size(), arms);
    for (size_t arm = 0; arm < arms; ++arm) {
      ASHLAR_CHECK_EQ(part[arm].size(), count);
      for (TextScore& score : part[arm]) {
        check_scores(score, texts.all[scores[arm].size()]);
        scores[arm].push_back(std::move(score));
      }
    }
  }
  ArmResults results(arms);
  for (size_t arm = 0; arm < arms; ++arm) {
    for (int64_t item = first; item < last; ++item) {
      const auto i = static_cast<size_t>(item - first);
      const auto own =
          std::span(scores[arm]).subspan(texts.begins[i], texts.begins[i + 1] - texts.begins[i]);
      ItemResult result;
      result.values = task.measure(item, own);
      for (const TextScore& score : own) {
        result.kv_bytes = std::max(result.kv_bytes, score.kv_bytes);
        result.kv_prompt_bytes = std::max(result.kv_prompt_bytes, score.kv_prompt_bytes);
        result.kv_shared_tokens += score.kv_shared_tokens;
      }
      results[arm].push_back(std::move(result));
    }
  }
  return results;
}

std::string name_in_log(const std::string& task, std::span<const Arm> arms, size_t arm) {
  return arms.size() == 1 ? task : fmt::format("{} [{}]", task, arms[arm].label());
}

// The log as far as one task and its arms go; without a log nothing is known.
class ArmLog {
 public:
  ArmLog(ItemLog* log, const std::string& task, const Node& settings, std::span<const Arm> arms)
      : log_(log) {
    for (size_t arm = 0; arm < arms.size(); ++arm) {
      names_.push_back(name_in_log(task, arms, arm));
      if (log != nullptr) log->begin(names_[arm], merged({settings, arms[arm].settings}));
    }
  }
  const ItemResult* find(size_t arm, int64_t item) const {
    return log_ == nullptr ? nullptr : log_->find(names_[arm], item);
  }
  bool knows(int64_t item) const {
    for (size_t arm = 0; arm < names_.size(); ++arm) {
      if (find(arm, item) == nullptr) return false;
    }
    return true;
  }
  // An arm that a killed run had still written is not written again.
  void append(size_t arm, int64_t item, const ItemResult& result) {
    if (log_ != nullptr && find(arm, item) == nullptr) log_->append(names_[arm], item, result);
  }

 private:
  ItemLog* log_;
  std::vector<std::string> names_;
};

}  // namespace

ArmResults run_items(const std::string& task, const Node& settings, std::span<const Arm> arms,
                     int64_t size, int64_t step, ItemLog* items, const RunItems& run) {
  using Clock = std::chrono::steady_clock;
  require(size > 0, ErrorCode::kRequest, "{}: has no items", task);
  ArmLog log(items, task, settings, arms);
  Progress progress(task, size);
  ArmResults results(arms.size());
  for (int64_t first = 0; first < size;) {
    if (log.knows(first)) {
      for (size_t arm = 0; arm < arms.size(); ++arm) {
        results[arm].push_back(*log.find(arm, first));
      }
      ++first;
      continue;
    }
    int64_t last = first + 1;
    while (last < size && last < first + step && !log.knows(last)) ++last;
    const auto start = Clock::now();
    ArmResults fresh = run(first, last);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    ASHLAR_CHECK_EQ(fresh.size(), arms.size());
    for (size_t arm = 0; arm < arms.size(); ++arm) {
      ASHLAR_CHECK_EQ(static_cast<int64_t>(fresh[arm].size()), last - first);
      for (ItemResult& result : fresh[arm]) {
        result.seconds =
            seconds / static_cast<double>(last - first) / static_cast<double>(arms.size());
        log.append(arm, static_cast<int64_t>(results[arm].size()), result);
        results[arm].push_back(std::move(result));
      }
    }
    first = last;
    progress.update(last);
  }
  return results;
}

Node merged(std::initializer_list<Node> maps) {
  Node out = Node::map();
  for (const Node& map : maps) {
    for (const auto& [key, value] : map.as_map()) out.set(key, value);
  }
  return out;
}

std::vector<EvalRow> evaluate(Scorer& scorer, const EvalTask& task,
                              const EvaluateOptions& options) {
  require(options.batch >= 1, ErrorCode::kRequest, "batch of {} texts", options.batch);
  require(options.bootstrap.resamples >= 0, ErrorCode::kRequest,
          "bootstrap resamples must not be negative");
  const std::vector<Arm> arms = scorer.arms();
  const Node settings = merged({options.settings, task.settings()});
  const ArmResults results =
      run_items(task.name(), settings, arms, task.size(), options.batch, options.log,
                [&](int64_t first, int64_t last) {
                  return score_items(scorer, task, first, last, options.batch, arms.size());
                });
  const std::vector<Metric> metrics = task.metrics();
  return rows_of(metrics, arms, results, options.bootstrap, settings);
}

}  // namespace ashlar

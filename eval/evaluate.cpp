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

// Scores the texts of items [first, last), `batch` at a time, whatever item they belong to.
std::vector<ItemResult> score_items(Scorer& scorer, const EvalTask& task, int64_t first,
                                    int64_t last, int64_t batch) {
  std::vector<ScoreText> texts;
  std::vector<size_t> begins{0};  // first text of each item, and the end
  for (int64_t item = first; item < last; ++item) {
    for (ScoreText& text : task.texts(item)) {
      try {
        check_text(scorer, text);
      } catch (const Error& error) {
        fail(error.code(), "{}: item {}: {}", task.name(), item, error.what());
      }
      texts.push_back(std::move(text));
    }
    begins.push_back(texts.size());
  }
  std::vector<TextScore> scores;
  for (size_t at = 0; at < texts.size(); at += static_cast<size_t>(batch)) {
    const auto part =
        std::span(texts).subspan(at, std::min(static_cast<size_t>(batch), texts.size() - at));
    for (TextScore& score : scorer.score(part)) {
      check_scores(score, texts[scores.size()]);
      scores.push_back(std::move(score));
    }
  }
  std::vector<ItemResult> results;
  for (size_t i = 0; i + 1 < begins.size(); ++i) {
    const auto own = std::span(scores).subspan(begins[i], begins[i + 1] - begins[i]);
    ItemResult result;
    result.values = task.measure(first + static_cast<int64_t>(i), own);
    for (const TextScore& score : own) result.kv_bytes = std::max(result.kv_bytes, score.kv_bytes);
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace

std::vector<ItemResult> run_items(const std::string& task, const Node& settings, int64_t size,
                                  int64_t step, ItemLog* log, const RunItems& run) {
  using Clock = std::chrono::steady_clock;
  require(size > 0, ErrorCode::kRequest, "{}: has no items", task);
  if (log != nullptr) log->begin(task, settings);
  const auto known = [&](int64_t item) { return log == nullptr ? nullptr : log->find(task, item); };
  Progress progress(task, size);
  std::vector<ItemResult> results;
  while (static_cast<int64_t>(results.size()) < size) {
    const auto first = static_cast<int64_t>(results.size());
    if (const ItemResult* old = known(first)) {
      results.push_back(*old);
      continue;
    }
    int64_t last = first + 1;
    while (last < size && last < first + step && known(last) == nullptr) ++last;
    const auto start = Clock::now();
    std::vector<ItemResult> fresh = run(first, last);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    ASHLAR_CHECK_EQ(static_cast<int64_t>(fresh.size()), last - first);
    for (ItemResult& result : fresh) {
      result.seconds = seconds / static_cast<double>(last - first);
      if (log != nullptr) log->append(task, static_cast<int64_t>(results.size()), result);
      results.push_back(std::move(result));
    }
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

std::vector<EvalRow> rows_of(std::span<const Metric> metrics, std::span<const ItemResult> results,
                             const BootstrapOptions& options, const Node& settings) {
  std::vector<std::vector<double>> values;
  double seconds = 0;
  int64_t kv_bytes = 0;
  for (const ItemResult& result : results) {
    require(values.empty() || result.values.size() == values.front().size(), ErrorCode::kData,
            "items {} and 0 have different numbers of values", values.size());
    values.push_back(result.values);
    seconds += result.seconds;
    kv_bytes = std::max(kv_bytes, result.kv_bytes);
  }
  std::vector<EvalRow> rows;
  for (const Metric& metric : metrics) {
    EvalRow row = summarize(metric, values, options);
    row.seconds = seconds;
    row.kv_bytes = kv_bytes;
    row.settings = settings;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<EvalRow> evaluate(Scorer& scorer, const EvalTask& task,
                              const EvaluateOptions& options) {
  require(options.batch >= 1, ErrorCode::kRequest, "batch of {} texts", options.batch);
  require(options.bootstrap.resamples >= 0, ErrorCode::kRequest,
          "bootstrap resamples must not be negative");
  const Node settings = merged({options.settings, scorer.settings(), task.settings()});
  const std::vector<ItemResult> results =
      run_items(task.name(), settings, task.size(), options.batch, options.log,
                [&](int64_t first, int64_t last) {
                  return score_items(scorer, task, first, last, options.batch);
                });
  const std::vector<Metric> metrics = task.metrics();
  return rows_of(metrics, results, options.bootstrap, settings);
}

}  // namespace ashlar

#include "cli/engine_scorer.h"

#include <algorithm>

#include "core/base/error.h"
#include "kernels/elementwise.h"

namespace ashlar::cli {
namespace {

// Rows of logits in flight, all texts together.
constexpr int64_t kRowsAtOnce = 256;

TokenScore score_row(std::span<const float> logits, int32_t token) {
  const auto best = std::max_element(logits.begin(), logits.end());
  return {static_cast<double>(logits[static_cast<size_t>(token)]) -
              log_sum_exp(logits.data(), static_cast<int64_t>(logits.size())),
          static_cast<int32_t>(best - logits.begin())};
}

/// What one feed takes of a text.
struct Piece {
  int64_t begin = 0, end = 0;
  bool rows = false;  ///< the logits behind its tokens are wanted, or the marker's if it has none
  bool acts = false;  ///< the prompt ends here, or a token came alone
};

/// Tokens that are read as a prompt. A text's last token is only predicted, never read.
int64_t prompt_of(const ScoreText& text) {
  const int64_t last = static_cast<int64_t>(text.tokens.size()) - 1;
  return text.prompt < 0 ? last : std::min(text.prompt, last);
}

/// How a text is read.
std::vector<Piece> plan(const ScoreText& text, int64_t rows_at_once) {
  const int64_t last = static_cast<int64_t>(text.tokens.size()) - 1, prompt = prompt_of(text);
  const int64_t unscored = std::min(prompt, std::max<int64_t>(0, text.scored - 1));
  std::vector<Piece> pieces;
  if (text.scored == 0) pieces.push_back({0, 0, true, false});
  if (unscored > 0) pieces.push_back({0, unscored, false, false});
  for (int64_t at = unscored; at < prompt; at += rows_at_once) {
    pieces.push_back({at, std::min(at + rows_at_once, prompt), true, false});
  }
  // An empty prompt is the marker alone; without it nothing is read before the first token.
  if (pieces.empty() && text.marker) pieces.push_back({0, 0, false, false});
  if (!pieces.empty()) pieces.back().acts = true;
  for (int64_t at = prompt; at < last; ++at) pieces.push_back({at, at + 1, true, true});
  return pieces;
}

/// A text under way.
struct Reading {
  const ScoreText& text;
  std::unique_ptr<Sequence> sequence;
  std::vector<Piece> pieces;
  std::vector<float> rows;
  TextScore score;
};

// Scores what the logits behind the tokens of `piece`, or behind the marker, predict.
void take_rows(Reading& reading, const Piece& piece, Engine& engine) {
  const ScoreText& text = reading.text;
  const auto vocab = static_cast<size_t>(engine.spec().vocab_size);
  if (!piece.rows) return;
  if (piece.begin == piece.end) {
    reading.score.tokens.push_back(score_row(engine.logits(*reading.sequence), text.tokens[0]));
    return;
  }
  const int64_t first = std::max(piece.begin, text.scored - 1);
  if (first >= piece.end) return;
  const size_t done = reading.score.tokens.size();
  reading.score.tokens.resize(done + static_cast<size_t>(piece.end - first));
  engine.pool().parallel_for(piece.end - first, [&](int64_t i, int) {
    const auto row = static_cast<size_t>(first - piece.begin + i);
    reading.score.tokens[done + static_cast<size_t>(i)] =
        score_row(std::span<const float>(reading.rows).subspan(row * vocab, vocab),
                  text.tokens[static_cast<size_t>(first + i + 1)]);
  });
}

}  // namespace

EngineScorer::EngineScorer(const ModelData& model, const EngineArguments& arguments)
    : model_(model), arguments_(arguments), engine_(model, arguments.engine_options()) {
  cache_for(context_length());  // refuses a wrong request before anything is scored
}

int64_t EngineScorer::vocab_size() const { return engine_.spec().vocab_size; }
int64_t EngineScorer::context_length() const { return engine_.spec().context_length; }

Node EngineScorer::settings() const {
  const CacheRequest& cache = arguments_.cache;
  const CacheOptions codecs =
      cache_options(cache, model_.spec, model_.kv_codec.key, model_.kv_codec.value);
  Node out = Node::Map{{"scorer", "engine"},
                       {"activation", arguments_.activation},
                       {"kv_codec", fmt::format("{}:{}", codec_name(codecs.key_codec),
                                                codec_name(codecs.value_codec))},
                       {"kv_policy", cache.policy}};
  if (cache.fp16_first > 0) out.set("kv_fp16_first", cache.fp16_first);
  if (cache.fp16_newest > 0) out.set("kv_fp16_newest", cache.fp16_newest);
  if (cache.policy == "none") return out;
  out.set("kv_budget", cache.budget);
  out.set("kv_sink", cache.sink);
  out.set("kv_recent", cache.recent);
  if (cache.window >= 0) out.set("kv_window", cache.window);
  if (!cache.pool.empty()) out.set("kv_pool", cache.pool);
  if (!cache.drop.empty()) out.set("kv_drop", cache.drop);
  if (!cache.layers.empty()) out.set("kv_layers", cache.layers);
  if (cache.seed) out.set("kv_seed", std::to_string(*cache.seed));
  if (cache.by_age) out.set("kv_by_age", true);
  return out;
}

const CacheChoice& EngineScorer::cache_for(int64_t tokens) {
  const bool relative = arguments_.cache.budget.ends_with('%');
  const int64_t key = relative ? tokens : 0;
  const auto found = caches_.find(key);
  if (found != caches_.end()) return found->second;
  return caches_.emplace(key, choose_cache(arguments_, model_, tokens)).first->second;
}

std::vector<TextScore> EngineScorer::score(std::span<const ScoreText> texts) {
  const auto vocab = static_cast<size_t>(vocab_size());
  const int64_t rows = std::max<int64_t>(1, kRowsAtOnce / static_cast<int64_t>(texts.size()));
  std::vector<Reading> readings;
  size_t steps = 0;
  for (const ScoreText& text : texts) {
    const CacheChoice& cache =
        cache_for(text.prompt > 0 ? text.prompt : static_cast<int64_t>(text.tokens.size()));
    readings.push_back(
        {text, engine_.start(cache.options, cache.policy, text.marker), plan(text, rows), {}, {}});
    steps = std::max(steps, readings.back().pieces.size());
  }
  for (size_t step = 0; step < steps; ++step) {
    std::vector<StepItem> items;
    for (Reading& reading : readings) {
      if (step >= reading.pieces.size()) continue;
      const Piece& piece = reading.pieces[step];
      if (piece.rows) {
        reading.rows.resize(
            std::max(reading.rows.size(), static_cast<size_t>(piece.end - piece.begin) * vocab));
      }
      const auto part = std::span(reading.text.tokens)
                            .subspan(static_cast<size_t>(piece.begin),
                                     static_cast<size_t>(piece.end - piece.begin));
      items.push_back({reading.sequence.get(), part, piece.acts,
                       piece.rows ? reading.rows.data() : nullptr,
                       piece.acts ? 0 : prompt_of(reading.text) - piece.end});
    }
    engine_.feed(items);
    for (Reading& reading : readings) {
      if (step < reading.pieces.size()) {
        take_rows(reading, reading.pieces[step], engine_);
      }
    }
  }
  std::vector<TextScore> scores;
  for (Reading& reading : readings) {
    reading.score.kv_bytes = reading.sequence->kv_bytes();
    scores.push_back(std::move(reading.score));
  }
  return scores;
}

std::vector<float> EngineScorer::logits(std::span<const int32_t> tokens) {
  const auto vocab = static_cast<size_t>(vocab_size());
  std::vector<float> out(tokens.size() * vocab);
  const CacheChoice& cache = cache_for(static_cast<int64_t>(tokens.size()));
  const auto sequence = engine_.start(cache.options, cache.policy, /*marker=*/false);
  // One prompt, or, for a policy to act, token by token.
  const size_t step = cache.policy == nullptr ? tokens.size() : 1;
  for (size_t at = 0; at < tokens.size(); at += step) {
    const StepItem item{sequence.get(), tokens.subspan(at, step), true, out.data() + at * vocab};
    engine_.feed(std::span(&item, 1));
  }
  return out;
}

}  // namespace ashlar::cli

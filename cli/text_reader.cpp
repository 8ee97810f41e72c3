#include "cli/text_reader.h"

#include <algorithm>

#include "cli/shared_prompt.h"
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

/// How a text is read. Its last token is only predicted, never read.
struct Plan {
  std::vector<Piece> prompt, rest;
};

Plan plan_of(const ScoreText& text, int64_t rows_at_once) {
  const int64_t last = static_cast<int64_t>(text.tokens.size()) - 1;
  const int64_t prompt = text.prompt < 0 ? last : std::min(text.prompt, last);
  const int64_t unscored = std::min(prompt, std::max<int64_t>(0, text.scored - 1));
  Plan plan;
  std::vector<Piece>& pieces = plan.prompt;
  if (text.scored == 0) pieces.push_back({0, 0, true, false});
  if (unscored > 0) pieces.push_back({0, unscored, false, false});
  for (int64_t at = unscored; at < prompt; at += rows_at_once) {
    pieces.push_back({at, std::min(at + rows_at_once, prompt), true, false});
  }
  // An empty prompt is the marker alone; without it nothing is read before the first token.
  if (pieces.empty() && text.marker) pieces.push_back({0, 0, false, false});
  if (!pieces.empty()) pieces.back().acts = true;
  for (int64_t at = prompt; at < last; ++at) plan.rest.push_back({at, at + 1, true, true});
  return plan;
}

/// A text under way with one cache, or with those that share its prompt.
struct Reading {
  const ScoreText* text = nullptr;
  std::unique_ptr<Sequence> sequence;
  std::span<const Piece> pieces;
  bool acts = true;  ///< false: no policy acts yet, whatever the pieces say
  std::vector<float> rows = {};
  TextScore score = {};
};

// Scores what the logits behind the tokens of `piece`, or behind the marker, predict.
void take_rows(Reading& reading, const Piece& piece, Engine& engine) {
  const ScoreText& text = *reading.text;
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

// Reads piece `step` of every reading that has so many, at once.
void read_step(Engine& engine, std::span<Reading> readings, size_t step) {
  const auto vocab = static_cast<size_t>(engine.spec().vocab_size);
  std::vector<StepItem> items;
  for (Reading& reading : readings) {
    if (step >= reading.pieces.size()) continue;
    const Piece& piece = reading.pieces[step];
    const auto begin = static_cast<size_t>(piece.begin), end = static_cast<size_t>(piece.end);
    if (piece.rows) {
      reading.rows.resize(std::max(reading.rows.size(), (end - begin) * vocab));
    }
    const bool acts = piece.acts && reading.acts;
    items.push_back({reading.sequence.get(),
                     std::span(reading.text->tokens).subspan(begin, end - begin), acts,
                     piece.rows ? reading.rows.data() : nullptr,
                     acts ? 0 : reading.pieces.back().end - piece.end});
  }
  engine.feed(items);
  for (Reading& reading : readings) {
    if (step < reading.pieces.size()) take_rows(reading, reading.pieces[step], engine);
  }
}

// Reads all pieces from `step` on, one of every reading at a time.
void read_all(Engine& engine, std::span<Reading> readings, size_t step = 0) {
  size_t steps = 0;
  for (const Reading& reading : readings) steps = std::max(steps, reading.pieces.size());
  for (; step < steps; ++step) read_step(engine, readings, step);
}

using Caches = std::span<const std::vector<const CacheChoice*>>;

std::unique_ptr<Sequence> start(Engine& engine, const CacheChoice& cache, const ScoreText& text) {
  auto sequence = engine.start(cache.options, cache.policy, text.marker);
  engine.share(*sequence, "");
  return sequence;
}

// Whether a prompt is read without its policies acting, which then do on forks. Where beginnings
// are kept so is every prompt with a policy: pages are kept before it drops rows.
bool read_apart(const Engine& engine, const PromptClass& one) {
  return one.shared() || (engine.keeps_beginnings() && one.reader->policy != nullptr);
}

std::vector<std::unique_ptr<Sequence>> end_reading(Engine& engine, const PromptClass& one,
                                                   std::span<const CacheChoice* const> caches,
                                                   Reading& prompt) {
  if (one.shared() || prompt.acts) {
    return end_prompt(engine, one, caches, std::move(prompt.sequence));
  }
  std::vector<std::unique_ptr<Sequence>> alone;
  alone.push_back(engine.fork(*prompt.sequence, one.reader->policy));
  return alone;
}

/// Reads every text's prompt, once for each class of its caches; a reading for every text and
/// cache, in order, that goes on from there.
std::vector<Reading> read_prompts(Engine& engine, std::span<const ScoreText> texts, Caches caches,
                                  std::span<const Plan> plans) {
  std::vector<std::vector<PromptClass>> classes;
  std::vector<Reading> prompts;
  for (size_t t = 0; t < texts.size(); ++t) {
    classes.push_back(prompt_classes(caches[t]));
    if (plans[t].prompt.empty()) continue;  // nothing to share
    for (const PromptClass& one : classes.back()) {
      prompts.push_back({&texts[t], start(engine, *one.reader, texts[t]), plans[t].prompt,
                         !read_apart(engine, one)});
    }
  }
  // One after another, so that those that begin alike share.
  size_t step = 0;
  if (engine.keeps_beginnings()) {
    for (Reading& prompt : prompts) read_step(engine, std::span(&prompt, 1), step);
    ++step;
  }
  read_all(engine, prompts, step);
  for (Reading& prompt : prompts) prompt.score.kv_shared_tokens = prompt.sequence->shared_tokens();
  std::vector<Reading> readings;
  auto prompt = prompts.begin();
  for (size_t t = 0; t < texts.size(); ++t) {
    const size_t first = readings.size();
    for (const CacheChoice* cache : caches[t]) {
      const bool bare = plans[t].prompt.empty();
      readings.push_back(
          {&texts[t], bare ? start(engine, *cache, texts[t]) : nullptr, plans[t].rest});
    }
    if (plans[t].prompt.empty()) continue;
    for (const PromptClass& one : classes[t]) {
      auto ended = end_reading(engine, one, caches[t], *prompt);
      for (size_t m = 0; m < one.members.size(); ++m) {
        Reading& reading = readings[first + one.members[m]];
        reading.sequence = std::move(ended[m]);
        reading.score = prompt->score;
      }
      ++prompt;
    }
  }
  for (Reading& reading : readings) reading.score.kv_prompt_bytes = reading.sequence->kv_bytes();
  return readings;
}

}  // namespace

std::vector<std::vector<TextScore>> read_texts(Engine& engine, std::span<const ScoreText> texts,
                                               Caches caches) {
  ASHLAR_CHECK(!texts.empty() && caches.size() == texts.size());
  const int64_t rows = std::max<int64_t>(1, kRowsAtOnce / static_cast<int64_t>(texts.size()));
  std::vector<Plan> plans;
  for (const ScoreText& text : texts) plans.push_back(plan_of(text, rows));
  std::vector<Reading> readings = read_prompts(engine, texts, caches, plans);
  read_all(engine, readings);
  std::vector<std::vector<TextScore>> scores(caches[0].size());
  size_t next = 0;
  for (size_t t = 0; t < texts.size(); ++t) {
    for (std::vector<TextScore>& of_arm : scores) {
      Reading& reading = readings[next++];
      reading.score.kv_bytes = reading.sequence->kv_bytes();
      of_arm.push_back(std::move(reading.score));
    }
  }
  return scores;
}

}  // namespace ashlar::cli

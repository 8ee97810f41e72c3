#include "cli/engine_scorer.h"

#include <algorithm>

#include "cli/text_reader.h"
#include "core/base/error.h"

namespace ashlar::cli {
namespace {

bool is_relative(const CacheRequest& request) { return request.budget.ends_with('%'); }

}  // namespace

EngineScorer::EngineScorer(const ModelData& model, const EngineArguments& arguments,
                           std::vector<CacheRequest> arms)
    : model_(model),
      arguments_(arguments),
      requests_(std::move(arms)),
      engine_(model, arguments.engine_options()),
      caches_(requests_.size()) {
  ASHLAR_CHECK(!requests_.empty());
  double widest = 0;  // bytes per token of the full cache
  size_t full = requests_.size();
  for (size_t arm = 0; arm < requests_.size(); ++arm) {
    arms_.push_back(arm_of(requests_[arm]));
    // Refuses a wrong request before anything is scored.
    const double bytes =
        cache_bytes_per_token(model.spec, cache_for(arm, context_length()).options);
    if (requests_[arm].policy != "none" || bytes <= widest) continue;
    widest = bytes;
    full = arm;
  }
  if (full < arms_.size()) arms_[full].full = true;
}

int64_t EngineScorer::vocab_size() const { return engine_.spec().vocab_size; }
int64_t EngineScorer::context_length() const { return engine_.spec().context_length; }

Arm EngineScorer::arm_of(const CacheRequest& cache) const {
  // The codecs alone: what does not go with them is refused with the arm's name.
  const CacheOptions codecs =
      cache_options(cache.codec, model_.kv_codec.key, model_.kv_codec.value);
  const std::string key(codec_name(codecs.key_codec)), value(codec_name(codecs.value_codec));
  Arm arm;
  arm.policy = cache.policy;
  arm.codec = key == value ? key : key + ":" + value;
  Node& out = arm.settings;
  out = Node::Map{{"scorer", "engine"},
                  {"activation", arguments_.activation},
                  {"kv_codec", key + ":" + value},
                  {"kv_policy", cache.policy}};
  if (cache.fp16_first > 0) out.set("kv_fp16_first", cache.fp16_first);
  if (cache.fp16_newest > 0) out.set("kv_fp16_newest", cache.fp16_newest);
  if (cache.policy == "none") return arm;
  arm.budget = cache.budget;
  out.set("kv_budget", cache.budget);
  out.set("kv_sink", cache.sink);
  out.set("kv_recent", cache.recent);
  if (cache.window >= 0) out.set("kv_window", cache.window);
  if (!cache.pool.empty()) out.set("kv_pool", cache.pool);
  if (!cache.drop.empty()) out.set("kv_drop", cache.drop);
  if (!cache.layers.empty()) out.set("kv_layers", cache.layers);
  if (cache.seed) out.set("kv_seed", std::to_string(*cache.seed));
  if (cache.by_age) out.set("kv_by_age", true);
  if (!cache.crush.empty()) out.set("kv_crush", cache.crush);
  return arm;
}

bool EngineScorer::relative() const { return std::ranges::any_of(requests_, is_relative); }

const CacheChoice& EngineScorer::cache_for(size_t arm, int64_t tokens) {
  const int64_t key = is_relative(requests_[arm]) ? tokens : 0;
  const auto found = caches_[arm].find(key);
  if (found != caches_[arm].end()) return found->second;
  EngineArguments arguments = arguments_;
  arguments.cache = requests_[arm];
  try {
    return caches_[arm].emplace(key, choose_cache(arguments, model_, tokens)).first->second;
  } catch (const Error& error) {
    if (requests_.size() == 1) throw;
    fail(error.code(), "arm '{}' cannot be: {}", arms_[arm].label(), error.what());
  }
}

const CacheChoice& EngineScorer::cache_for(size_t arm, const ScoreText& text) {
  return cache_for(arm, text.prompt > 0 ? text.prompt : static_cast<int64_t>(text.tokens.size()));
}

std::vector<TextScore> EngineScorer::score(std::span<const ScoreText> texts) {
  return std::move(score_with(1, texts).front());
}

std::vector<std::vector<TextScore>> EngineScorer::score_arms(std::span<const ScoreText> texts) {
  return score_with(arms_.size(), texts);
}

std::vector<std::vector<TextScore>> EngineScorer::score_with(size_t arms,
                                                             std::span<const ScoreText> texts) {
  std::vector<std::vector<const CacheChoice*>> caches;
  for (const ScoreText& text : texts) {
    caches.emplace_back();
    for (size_t arm = 0; arm < arms; ++arm) caches.back().push_back(&cache_for(arm, text));
  }
  return read_texts(engine_, texts, caches);
}

std::vector<float> EngineScorer::logits(std::span<const int32_t> tokens) {
  const auto vocab = static_cast<size_t>(vocab_size());
  std::vector<float> out(tokens.size() * vocab);
  const CacheChoice& cache = cache_for(0, static_cast<int64_t>(tokens.size()));
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

#include "cli/engine_scorer.h"

#include <algorithm>

#include "cli/foresight.h"
#include "cli/text_reader.h"
#include "core/base/error.h"

namespace ashlar::cli {
namespace {

bool is_relative(const CacheRequest& request) { return request.budget.ends_with('%'); }

}  // namespace

// An error of an arm names it where there are several.
template <typename F>
auto EngineScorer::naming(size_t arm, const F& make) const {
  try {
    return make();
  } catch (const Error& error) {
    if (requests_.size() == 1) throw;
    fail(error.code(), "arm '{}' cannot be: {}", arms_[arm].label(), error.what());
  }
}

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
  bool recalls = false;
  for (size_t arm = 0; arm < requests_.size(); ++arm) {
    arms_.push_back(arm_of(requests_[arm]));
    // Refuses a wrong request before anything is scored.
    const CacheChoice& choice = cache_for(arm, context_length());
    const char* unshared = PrefixIndex::why_not(choice.policy.get(), choice.options);
    naming(arm, [&] {
      require(arguments.share.empty() || unshared == nullptr, ErrorCode::kRequest,
              "--kv-share: under --kv-policy {} and --kv-codec {} texts share no pages: {}",
              requests_[arm].policy, arms_[arm].codec, unshared);
    });
    const double bytes = cache_bytes_per_token(model.spec, choice.options);
    recalls = recalls || (choice.policy != nullptr && choice.policy->needs().recall);
    if (requests_[arm].policy != "none" || bytes <= widest) continue;
    widest = bytes;
    full = arm;
  }
  if (full < arms_.size()) arms_[full].full = true;
  require(arguments.backup_memory.empty() || recalls, ErrorCode::kRequest,
          "--kv-backup-memory {}: no --kv-policy here recalls pages", arguments.backup_memory);
}

int64_t EngineScorer::vocab_size() const { return engine_.spec().vocab_size; }
int64_t EngineScorer::context_length() const { return engine_.spec().context_length; }

Arm EngineScorer::arm_of(const CacheRequest& cache) const {
  // The codecs alone: what does not go with them is refused with the arm's name.
  const CacheOptions codecs =
      cache_options(cache.codec, model_.kv_codec.key, model_.kv_codec.value);
  const CodecNames names = codec_names(codecs);
  Arm arm;
  arm.policy = cache.policy;
  arm.codec = names.both();
  Node& out = arm.settings;
  out = Node::Map{{"scorer", "engine"},
                  {"activation", arguments_.activation},
                  {"kv_codec", names.key + ":" + names.value},
                  {"kv_policy", cache.policy}};
  if (cache.fp16_first > 0) out.set("kv_fp16_first", cache.fp16_first);
  if (cache.fp16_newest > 0) out.set("kv_fp16_newest", cache.fp16_newest);
  if (!cache.zip.empty()) out.set("kv_zip", cache.zip);
  if (cache.page_rows != CacheOptions{}.page_rows) out.set("kv_page_rows", cache.page_rows);
  if (cache.policy == "none") return arm;
  // Does not compile when there is another option: what a score depends on belongs here, too.
  const auto& [codec, policy, budget, sink, recent, fp16_first, fp16_newest, limit, page_rows,
               window, pool, drop, layers, seed, by_age, crush, zip, topk, digest, dense_layers,
               select_every] = cache;
  arm.budget = budget;
  out.set("kv_budget", budget);
  out.set("kv_sink", sink);
  out.set("kv_recent", recent);
  if (window >= 0) out.set("kv_window", window);
  if (!pool.empty()) out.set("kv_pool", pool);
  if (!drop.empty()) out.set("kv_drop", drop);
  if (!layers.empty()) out.set("kv_layers", layers);
  if (seed) out.set("kv_seed", std::to_string(*seed));
  if (by_age) out.set("kv_by_age", true);
  if (!crush.empty()) out.set("kv_crush", crush);
  if (topk >= 0) out.set("kv_topk", topk);
  if (!digest.empty()) out.set("kv_digest", digest);
  if (dense_layers > 0) out.set("kv_dense_layers", dense_layers);
  if (select_every > 1) out.set("kv_select_every", select_every);
  return arm;
}

const CacheChoice& EngineScorer::cache_for(size_t arm, int64_t tokens) {
  const int64_t key = is_relative(requests_[arm]) ? tokens : 0;
  const auto found = caches_[arm].find(key);
  if (found != caches_[arm].end()) return found->second;
  EngineArguments arguments = arguments_;
  arguments.cache = requests_[arm];
  arguments.backup_memory.clear();  // of all arms together
  const auto future = is_oracle(arm) ? nothing_to_come() : nullptr;
  CacheChoice choice = naming(arm, [&] { return choose_cache(arguments, model_, tokens, future); });
  return caches_[arm].emplace(key, std::move(choice)).first->second;
}

const CacheChoice& EngineScorer::cache_for(size_t arm, const ScoreText& text) {
  if (is_oracle(arm)) naming(arm, [&] { check_foresight(text); });
  return cache_for(arm, text.prompt > 0 ? text.prompt : static_cast<int64_t>(text.tokens.size()));
}

bool EngineScorer::depends_on_text() const {
  return std::ranges::any_of(requests_, [](const CacheRequest& request) {
    return is_relative(request) || request.policy == "oracle";
  });
}

void EngineScorer::check(const ScoreText& text) {
  for (size_t arm = 0; arm < arms_.size(); ++arm) cache_for(arm, text);
}

TextCaches EngineScorer::caches(const ScoreText& text, size_t arms) {
  TextCaches out;
  std::vector<std::pair<CacheOptions, std::shared_ptr<const FutureAttention>>> futures;
  for (size_t arm = 0; arm < arms; ++arm) {
    const CacheChoice& choice = cache_for(arm, text);
    if (!is_oracle(arm)) {
      out.of_arm.push_back(&choice);
      continue;
    }
    auto known = std::ranges::find(futures, choice.options, [](const auto& f) { return f.first; });
    if (known == futures.end()) {
      futures.emplace_back(choice.options, foresee(engine_, text, choice.options));
      known = futures.end() - 1;
    }
    auto own = std::make_unique<CacheChoice>(choice);
    own->policy = make_oracle(own->policy_options, engine_.groups(), known->second);
    out.of_arm.push_back(own.get());
    out.own.push_back(std::move(own));
  }
  return out;
}

std::vector<TextScore> EngineScorer::score(std::span<const ScoreText> texts) {
  return std::move(score_with(1, texts).front());
}

std::vector<std::vector<TextScore>> EngineScorer::score_arms(std::span<const ScoreText> texts) {
  return score_with(arms_.size(), texts);
}

std::vector<std::vector<TextScore>> EngineScorer::score_with(size_t arms,
                                                             std::span<const ScoreText> texts) {
  std::vector<TextCaches> own;
  std::vector<std::vector<const CacheChoice*>> of_texts;
  for (const ScoreText& text : texts) {
    own.push_back(caches(text, arms));
    of_texts.push_back(own.back().of_arm);
  }
  return read_texts(engine_, texts, of_texts);
}

std::vector<float> EngineScorer::logits(std::span<const int32_t> tokens) {
  const auto vocab = static_cast<size_t>(vocab_size());
  std::vector<float> out(tokens.size() * vocab);
  require(
      !is_oracle(0), ErrorCode::kRequest,
      "--kv-policy oracle: knows what the queries behind a prompt attend to, and logits are read "
      "without one");
  const CacheChoice& cache = cache_for(0, static_cast<int64_t>(tokens.size()));
  const auto sequence = engine_.start(cache.options, cache.policy, /*marker=*/false);
  // One prompt, or, for a policy to act and rows to become segments, token by token.
  const size_t step = cache.policy == nullptr && !cache.options.zip ? tokens.size() : 1;
  for (size_t at = 0; at < tokens.size(); at += step) {
    const StepItem item{sequence.get(), tokens.subspan(at, step), true, out.data() + at * vocab};
    engine_.feed(std::span(&item, 1));
  }
  return out;
}

}  // namespace ashlar::cli

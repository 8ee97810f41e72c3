#pragma once

#include <cstdint>
#include <memory>

#include "engine/model/engine.h"
#include "engine/policy/oracle.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// Most bytes of one text's FutureAttention, unless a single moment takes more.
inline constexpr int64_t kForesightBytes = int64_t{64} << 20;

/// Throws Error(kRequest) unless `text` has a prompt and something behind it: elsewhere no policy
/// acts on what is scored, so there is nothing to know in advance.
void check_foresight(const ScoreText& text);

/// What the queries behind the prompt of `text` give to each row, per governed group and KV head,
/// over query heads and readers: the text is read with a full cache of `cache`'s codecs. The sums
/// are taken after the prompt and after every s further rows, with the least s for which they fit
/// `bytes`; within s rows an oracle still counts queries that have gone by. Throws what
/// check_foresight and Engine::feed throw.
std::shared_ptr<const FutureAttention> foresee(Engine& engine, const ScoreText& text,
                                               const CacheOptions& cache,
                                               int64_t bytes = kForesightBytes);

}  // namespace ashlar::cli

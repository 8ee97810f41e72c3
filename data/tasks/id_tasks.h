#pragma once

#include <memory>

#include "data/tasks/generator.h"

namespace ashlar {

// Tasks on bare ids, for models trained from scratch: they ask of a cache what the tasks of text
// ask, without asking a model for English. Ids below kFirstContent are signs of the task.

inline constexpr int32_t kFillerId = 0;  ///< the empty place
inline constexpr int32_t kNeedleId = 1;  ///< an item that will matter follows
inline constexpr int32_t kQueryId = 2;   ///< the question follows
inline constexpr int32_t kFirstContent = 3;

/// String copy: `length` random ids, the question sign, the same ids as the answer. Every token of
/// the context is needed, so every cache that forgets must fail: a control.
std::unique_ptr<TaskGenerator> make_copy(const Node& options);

/// Needles in a haystack: `keys` needles "1 key… value…" at random places of random content ids,
/// then "2 key…" and the value as the answer, for `queries` of them in random order. Keys and
/// values are `key_length` and `value_length` ids; needles have different keys. With keys=1 it is
/// the passkey, with queries > 1 RULER's multi-query needles.
std::unique_ptr<TaskGenerator> make_needles_ids(const Node& options);

/// Variable tracking (RULER's vt): `chains` chains of `hops` + 1 names among random content ids,
/// "1 name value" once and "1 name name-before" for every hop, in order; then "2 value" of the
/// first chain and its names, in order, as the answer. Names and values are single ids of their own
/// halves; names differ.
std::unique_ptr<TaskGenerator> make_variables_ids(const Node& options);

/// Frequent words (RULER's fwe): `words` ids whose counts follow a zeta law of exponent `alpha`,
/// shuffled; the most frequent place is the filler's. Then "2" and the three ids that occurred
/// most, in order, as the answer.
std::unique_ptr<TaskGenerator> make_frequent_ids(const Node& options);

}  // namespace ashlar

#pragma once

#include <memory>

#include "data/tasks/generator.h"

namespace ashlar {

// Tasks of text that need no data: haystacks, words and questions are made from the seed. The forms
// and defaults are those of the named papers; the wording is our own, and answers are read with the
// right ones before them instead of generated, so figures do not stand beside the papers'.

/// Passkey retrieval (Mohtashami & Jaggi, "Landmark attention", 2023, arXiv 2305.16300): one number
/// in repeated sentences, then asked for. `depth`: percent of the text before it, or random.
std::unique_ptr<TaskGenerator> make_passkey(const Node& options, const Tokenizer* tokenizer);

/// Needles in a haystack as in RULER (Hsieh et al. 2024, arXiv 2404.06654, appendix B): `keys` keys
/// with `values` values each, of which `queries` are asked for. Haystacks: repeated sentences
/// (noise), sentences that do not repeat (sentences: in place of RULER's essays), or further
/// needles with other keys (needles). `config` names RULER's eight settings.
std::unique_ptr<TaskGenerator> make_needles(const Node& options, const Tokenizer* tokenizer);

/// Variable tracking (RULER's vt): chains "VAR B = VAR A" hidden in noise; all names that have the
/// first chain's value are asked for.
std::unique_ptr<TaskGenerator> make_variables(const Node& options, const Tokenizer* tokenizer);

/// Common words (RULER's cwe): a numbered list in which some words are named more often; these are
/// asked for, in the order in which they first appear, which makes the answer unique.
std::unique_ptr<TaskGenerator> make_common_words(const Node& options, const Tokenizer* tokenizer);

/// Frequent words (RULER's fwe): coded words whose counts follow a zeta law; the three most
/// frequent ones are asked for, most frequent first. The law's first rank is "...".
std::unique_ptr<TaskGenerator> make_frequent_words(const Node& options, const Tokenizer* tokenizer);

}  // namespace ashlar

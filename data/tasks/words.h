#pragma once

#include <cstdint>
#include <string>

#include "data/tasks/draws.h"

namespace ashlar {

/// How many different words `word()` knows: nouns, adjectives, verbs, then pairs "adjective-noun".
int64_t word_count();
/// The first `single_word_count()` words have no hyphen.
int64_t single_word_count();
/// Word `index` in [0, word_count()).
std::string word(int64_t index);
/// A random pair "adjective-noun".
std::string random_pair(Draws& draws);
/// A plain sentence of a fixed grammar: a haystack that never repeats exactly for long.
std::string random_sentence(Draws& draws);

}  // namespace ashlar

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tasks/generator.h"

namespace ashlar {

/// One length and number of pairs of a published configuration.
struct MqarShape {
  int64_t length = 0;
  int64_t pairs = 0;
  int64_t weight = 1;  ///< examples of it for every one of the rarest shape
};

/// The published list `name`; null when there is none.
const std::vector<MqarShape>* find_mqar_config(std::string_view name);
std::vector<std::string_view> mqar_config_names();

/// Multi-query associative recall (Arora et al., "Zoology: measuring and improving recall in
/// efficient language models", 2023, arXiv 2312.04927, section 4). An example lists P pairs of a
/// key and its value, then asks for every key once, in places whose distance from the list follows
/// a power law; the answer is the value.
///
///   tokens  k1 v1 k2 v2 … kP vP | f f k2 v2 f f f f k1 v1 f f
///   answer   0  0  0  0 …  0  0 | 0 0  0  1 0 0 0 0  0  1 0 0
///
/// Keys are different ids of [1, V/2), values different ids of [V/2, V). Queries stand at even
/// places behind the list: place g = 0, 1, … with p(g) ∝ a·(g+1)^(a−1), without replacement, in the
/// order of the pairs (so earlier pairs are asked nearer). The fillers f are uniform over the
/// vocabulary, or 0.
///
/// Deviation from the authors' generator: theirs puts a filler where the value would stand and
/// labels the key's place with the value; here the value is in the text, as in any text that a
/// model reads, and nothing is learned from it too early, since every key is asked once.
///
/// `updates` names that many keys a second time with another value before the first question; the
/// later value is the answer (the authors' "forgetting" variant). `passes` repeats the list.
std::unique_ptr<TaskGenerator> make_mqar(const Node& options);

}  // namespace ashlar

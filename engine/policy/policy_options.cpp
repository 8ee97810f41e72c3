#include "engine/policy/policy_options.h"

namespace ashlar {

Node describe(const PolicyOptions& options) {
  // Does not compile when there is another option: it belongs here, too.
  const auto& [name, budget, sink, recent, window, pool, pool_rows, drop, layers, seed, by_age,
               crush, page_rows, topk, digest, dense_groups, select_every] = options;
  return Node::Map{{"name", name},
                   {"budget", budget},
                   {"sink", sink},
                   {"recent", recent},
                   {"window", window},
                   {"pool", static_cast<int64_t>(pool)},
                   {"pool_rows", pool_rows},
                   {"drop", drop},
                   {"layers", layers},
                   {"seed", seed ? std::to_string(*seed) : ""},
                   {"by_age", by_age},
                   {"crush", crush ? write_crush(*crush) : ""},
                   {"page_rows", page_rows},
                   {"topk", topk},
                   {"digest", digest},
                   {"dense_groups", dense_groups},
                   {"select_every", select_every}};
}

}  // namespace ashlar

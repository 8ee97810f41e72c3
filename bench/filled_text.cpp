#include "bench/filled_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/base/rng.h"
#include "tests/support/specs.h"

namespace ashlar {

ModelSpec smollm_spec(int64_t context) {
  return test::spec_from_yaml(fmt::format(
      "{{kind: decoder, vocab_size: 49152, context_length: {}, tied_head: true, decoder: "
      "{{d_model: "
      "576, layers: 30, attention: {{heads: 9, kv_heads: 3, head_dim: 64}}, ffn: {{kind: swiglu, "
      "d_ff: 1536}}}}}}",
      context));
}

namespace {

int64_t layer_heads(const ModelSpec& spec, const KvGroup& group) {
  const StackSpec& stack = spec.stacks[static_cast<size_t>(group.stack)];
  return stack.layers[static_cast<size_t>(group.owner)].attention.heads;
}

}  // namespace

SequenceImage filled_text(const Engine& engine, const CacheOptions& cache,
                          const std::shared_ptr<const Policy>& policy, int64_t rows,
                          int64_t to_come) {
  const auto memory = make_host_memory();
  Arena arena(*memory);
  SequenceCache store(engine.groups(), cache, policy, arena);
  SequenceCache* const caches[] = {&store};
  ThreadPool threads(1);
  const Philox rng(5);
  constexpr int64_t kPiece = 512;
  for (int64_t done = 0; done < rows; done += kPiece) {
    const int64_t n = std::min(kPiece, rows - done);
    store.set_acting(false);
    store.set_prompt_end(rows + to_come);
    for (const KvGroup& g : engine.groups()) {
      std::vector<float> k(static_cast<size_t>(n * g.heads * g.key_dim));
      for (size_t i = 0; i < k.size(); ++i) {
        k[i] = static_cast<float>(2 * rng.uniform(static_cast<uint64_t>(done * 7919) + i) - 1);
      }
      store.append(g.id, k.data(), k.data(), n);
      // What a policy that recalls keeps of them; the rows to come bring the query that chooses.
      const int64_t heads = layer_heads(engine.spec(), g);
      const std::vector<float> queries(static_cast<size_t>(n * heads * g.key_dim), 1.0f);
      store.see_queries(g.id, queries.data(), heads, threads);
      SequenceCache::close(caches, g.id);
    }
  }
  SequenceImage image;
  image.length = rows;
  image.next_logits.resize(static_cast<size_t>(engine.spec().vocab_size));
  image.cache = store.image();
  return image;
}

double timed_step(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens) {
  const StepItem item{&sequence, tokens, true, nullptr};
  const auto start = std::chrono::steady_clock::now();
  engine.feed(std::span(&item, 1));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace ashlar

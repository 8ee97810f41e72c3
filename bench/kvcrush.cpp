// What KVCrush's selections cost beside the decoding between them, in the engine: a random decoder
// of SmolLM2-135M's shape whose cache is filled by hand up to the prompt's last query rows; these
// and what is decoded after them run as ever. Sizes are checked before a number is printed.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <utility>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "engine/model/engine.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A policy and the time that its select() took since it was last asked.
class Timed final : public Policy {
 public:
  explicit Timed(std::unique_ptr<Policy> inner)
      : Policy(inner->needs()), inner_(std::move(inner)) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    const auto start = Clock::now();
    inner_->select(lanes, edits);
    seconds_ += seconds_since(start);
  }
  double take() const { return std::exchange(seconds_, 0.0); }

 private:
  std::unique_ptr<Policy> inner_;
  mutable double seconds_ = 0;
};

constexpr int64_t kQueries = 32;  // rows of the prompt that really run

ModelSpec smollm(int64_t context) {
  return test::spec_from_yaml(fmt::format(
      "{{kind: decoder, vocab_size: 49152, context_length: {}, tied_head: true, decoder: "
      "{{d_model: "
      "576, layers: 30, attention: {{heads: 9, kv_heads: 3, head_dim: 64}}, ffn: {{kind: swiglu, "
      "d_ff: 1536}}}}}}",
      context));
}

// A text of `rows` random rows that is in the middle of its prompt.
SequenceImage filled(const Engine& engine, const CacheOptions& cache,
                     const std::shared_ptr<const Policy>& policy, int64_t rows) {
  const auto memory = make_host_memory();
  Arena arena(*memory);
  SequenceCache store(engine.groups(), cache, policy, arena);
  SequenceCache* const caches[] = {&store};
  const Philox rng(5);
  constexpr int64_t kPiece = 512;
  for (int64_t done = 0; done < rows; done += kPiece) {
    const int64_t n = std::min(kPiece, rows - done);
    store.set_acting(false);
    store.set_prompt_end(rows + kQueries);
    for (const KvGroup& g : engine.groups()) {
      std::vector<float> k(static_cast<size_t>(n * g.heads * g.key_dim));
      for (size_t i = 0; i < k.size(); ++i) {
        k[i] = static_cast<float>(2 * rng.uniform(static_cast<uint64_t>(done * 7919) + i) - 1);
      }
      store.append(g.id, k.data(), k.data(), n);
      SequenceCache::close(caches, g.id);
    }
  }
  SequenceImage image;
  image.length = rows;
  image.next_logits.resize(static_cast<size_t>(engine.spec().vocab_size));
  image.cache = store.image();
  return image;
}

void expect_rows(const Engine& engine, const Sequence& sequence, int64_t rows) {
  for (const KvGroup& g : engine.groups()) {
    require(sequence.cache().rows(g.id, 0) == rows, ErrorCode::kInternal,
            "group {} holds {} rows, not {}", g.id, sequence.cache().rows(g.id, 0), rows);
  }
}

double step(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens) {
  const StepItem item{&sequence, tokens, true, nullptr};
  const auto start = Clock::now();
  engine.feed(std::span(&item, 1));
  return seconds_since(start);
}

void measure(Engine& engine, int64_t rows, int64_t budget, const std::string& crush, int steps) {
  PolicyOptions options{"kvcrush", budget};
  options.crush = read_crush(crush, 1);
  const auto policy = std::make_shared<Timed>(make_policy(options, engine.groups()));
  const CacheOptions cache{CodecKind::kF16, CodecKind::kF16};
  const auto sequence = engine.resume(filled(engine, cache, policy, rows - kQueries), cache, policy,
                                      "the filled cache");
  policy->take();
  std::vector<int32_t> tokens(kQueries);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(31 * i + 7);
  step(engine, *sequence, tokens);
  const double at_end = policy->take();
  expect_rows(engine, *sequence, std::min(rows, budget));
  const int64_t drop = budget / 4;
  const std::span one = std::span(tokens).first(1);
  // Up to the row that passes the budget: the next one.
  while (sequence->cache().rows(0, 0) < budget) step(engine, *sequence, one);
  policy->take();
  step(engine, *sequence, one);
  const double decoding = policy->take();
  expect_rows(engine, *sequence, budget + 1 - drop);
  // The lane is at its shortest now, and tokens at their cheapest.
  std::vector<double> times;
  for (int i = 0; i < steps; ++i) times.push_back(step(engine, *sequence, one));
  std::sort(times.begin(), times.end());
  const double token = times[times.size() / 2];
  std::cout << fmt::format("| {} | {} | {} | {:.1f} ms | {:.1f} ms | {} | {:.1f} ms | {:.4f} % |",
                           rows, budget, crush, 1e3 * at_end, 1e3 * decoding, drop, 1e3 * token,
                           100 * decoding / (static_cast<double>(drop) * token))
            << std::endl;
}

int run(int argc, char** argv) {
  CLI::App app{"KVCrush's selections beside the decoding between them"};
  std::vector<int64_t> lengths = {8192, 32768};
  EngineOptions options;
  options.threads = 1;
  int steps = 15;
  app.add_option("--rows", lengths, "Rows of the prompt")->delimiter(',')->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  app.add_option("--steps", steps, "Tokens that are timed")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const int64_t longest = *std::ranges::max_element(lengths);
  const ModelData model = test::random_model(smollm(longest + 64 + steps), 3);
  Engine engine(model, options);
  std::cout
      << "| rows | budget | kvcrush | selection at the prompt's end | while decoding | every … "
         "tokens | one token | share |\n|---|---|---|---|---|---|---|---|\n";
  for (const int64_t rows : lengths) {
    for (const char* crush : {"page=1", "page=16", "page=16,features=page"}) {
      measure(engine, rows, rows / 4, crush, steps);
    }
    measure(engine, rows, rows, "page=1", steps);
  }
  return 0;
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  try {
    return ashlar::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}

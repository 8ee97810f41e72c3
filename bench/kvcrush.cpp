// What KVCrush's selections cost beside the decoding between them, in the engine: a random decoder
// of SmolLM2-135M's shape whose cache is filled by hand up to the prompt's last query rows; these
// and what is decoded after them run as ever. Sizes are checked before a number is printed.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <utility>

#include "bench/filled_text.h"
#include "bench/status.h"
#include "core/base/error.h"
#include "tests/support/random_model.h"

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

void expect_rows(const Engine& engine, const Sequence& sequence, int64_t rows) {
  for (const KvGroup& g : engine.groups()) {
    require(sequence.cache().rows(g.id, 0) == rows, ErrorCode::kInternal,
            "group {} holds {} rows, not {}", g.id, sequence.cache().rows(g.id, 0), rows);
  }
}

void measure(Engine& engine, int64_t rows, int64_t budget, const std::string& crush, int steps) {
  PolicyOptions options{"kvcrush", budget};
  options.crush = read_crush(crush, 1);
  const auto policy = std::make_shared<Timed>(make_policy(options, engine.groups()));
  const CacheOptions cache{CodecKind::kF16, CodecKind::kF16};
  const auto sequence = engine.resume(filled_text(engine, cache, policy, rows - kQueries, kQueries),
                                      cache, policy, "the filled cache");
  policy->take();
  std::vector<int32_t> tokens(kQueries);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(31 * i + 7);
  timed_step(engine, *sequence, tokens);
  const double at_end = policy->take();
  expect_rows(engine, *sequence, std::min(rows, budget));
  const int64_t drop = budget / 4;
  const std::span one = std::span(tokens).first(1);
  // Up to the row that passes the budget: the next one.
  while (sequence->cache().rows(0, 0) < budget) timed_step(engine, *sequence, one);
  policy->take();
  timed_step(engine, *sequence, one);
  const double decoding = policy->take();
  expect_rows(engine, *sequence, budget + 1 - drop);
  // The lane is at its shortest now, and tokens at their cheapest.
  std::vector<double> times;
  for (int i = 0; i < steps; ++i) times.push_back(timed_step(engine, *sequence, one));
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
  read_options(app, argc, argv);
  const int64_t longest = *std::ranges::max_element(lengths);
  const ModelData model = test::random_model(smollm_spec(longest + 64 + steps), 3);
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
  return ashlar::status_of([&] { return ashlar::run(argc, argv); });
}

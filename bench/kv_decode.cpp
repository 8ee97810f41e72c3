// What a decoded token costs behind a long text under several caches, in the engine, one token for
// each cache in turn: of a random decoder of SmolLM2-135M's shape, or of a model. A text is read
// and then decoded as it goes on; without one the caches are filled by hand up to the last rows of
// the prompt, and these and what is decoded after them run as ever. The rows held are checked
// before a number is printed.
//
// Beside the times: the bytes that a token reads, weights, pages, tables and digests, and how the
// times compare with them.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <numeric>

#include "bench/filled_text.h"
#include "bench/status.h"
#include "cli/model_options.h"
#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "engine/decode/budget.h"
#include "package/import/open_model.h"
#include "tests/support/random_model.h"

namespace ashlar {
namespace {

constexpr int64_t kQueries = 32;  // rows of the prompt that really run

// The rows that each group holds, ascending.
using Held = std::vector<std::vector<int32_t>>;

/// A cache as the command line gives it, "policy/codec/budget/crush", and a text under it.
struct Arm {
  std::string name;
  std::unique_ptr<Sequence> sequence;
  std::vector<double> seconds;
  int64_t recalled = 0;  // rows that came back, of all groups and steps
  Held held;             // behind the last step, if any may come back
};

std::string part(const std::string& name, size_t index) {
  size_t begin = 0;
  for (; index > 0; --index) {
    begin = name.find('/', begin);
    if (begin == std::string::npos) return "";
    ++begin;
  }
  return name.substr(begin, name.find('/', begin) - begin);
}

/// The prompt's tokens and those to be decoded; without a prompt, how many rows are filled.
struct Text {
  int64_t rows = 0;
  std::vector<int32_t> prompt, decoded;
};

std::vector<int32_t> some_tokens(int64_t n, int32_t step) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = step * (static_cast<int32_t>(i) + 1) % 4096;
  return tokens;
}

Text read_text(const ModelData& model, const std::string& model_path, const std::string& path,
               int64_t rows, int64_t steps) {
  if (path.empty()) return {rows, {}, some_tokens(steps, 17)};
  const std::vector<int32_t> tokens =
      cli::model_tokenizer(model, model_path)->encode(read_file(path));
  require(std::ssize(tokens) >= rows + steps, ErrorCode::kRequest,
          "--text {}: {} tokens are fewer than {} of the prompt and {} to decode", path,
          tokens.size(), rows, steps);
  return {rows,
          {tokens.begin(), tokens.begin() + rows},
          {tokens.begin() + rows, tokens.begin() + rows + steps}};
}

Arm make_arm(Engine& engine, const std::string& name, const Text& text, const CacheRequest& more) {
  CacheRequest request = more;
  request.policy = part(name, 0);
  request.codec = part(name, 1);
  request.budget = part(name, 2);
  request.crush = part(name, 3);
  std::ranges::replace(request.crush, ';', ',');
  const int64_t rows = text.rows;
  const CacheOptions cache = cache_options(request, engine.spec(), "fp16", "fp16");
  const PolicyOptions options = policy_options(request, engine.spec(), cache, rows);
  const std::shared_ptr<const Policy> policy = make_policy(options, engine.groups());
  Arm arm{name, nullptr, {}, 0, {}};
  if (text.prompt.empty()) {
    arm.sequence = engine.resume(filled_text(engine, cache, policy, rows - kQueries, kQueries),
                                 cache, policy, "the filled cache");
    timed_step(engine, *arm.sequence, some_tokens(kQueries, 31));
  } else {
    arm.sequence = engine.start(cache, policy, false);
    timed_step(engine, *arm.sequence, text.prompt);
  }
  const int64_t most = options.name == "none" ? rows : std::min(rows, options.budget);
  for (const KvGroup& g : engine.groups()) {
    const int64_t held = arm.sequence->cache().rows(g.id, 0);
    require(held <= most && (options.name != "none" || held == rows), ErrorCode::kInternal,
            "{}: group {} holds {} rows of {}", name, g.id, held, most);
  }
  return arm;
}

Held held(const Engine& engine, const Sequence& sequence) {
  Held out;
  for (const KvGroup& g : engine.groups()) {
    const auto positions = sequence.cache().positions(g.id, 0);
    out.emplace_back(positions.begin(), positions.end());
    std::ranges::sort(out.back());
  }
  return out;
}

// Counts what a step has brought back; its own row is none of that. All bookkeeping is behind the
// step, so that caches are for the next one as an arm without any finds them.
void note_recalled(const Engine& engine, Arm& arm, bool timed) {
  Held now = held(engine, *arm.sequence);
  for (size_t g = 0; timed && g < now.size(); ++g) {
    std::vector<int32_t> fresh;
    std::ranges::set_difference(now[g], arm.held[g], std::back_inserter(fresh));
    arm.recalled +=
        std::ranges::count_if(fresh, [&](int32_t p) { return p + 1 < arm.sequence->length(); });
  }
  arm.held = std::move(now);
}

// Not the median: a selection that serves several tokens is a cost of all of them.
double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void print(const Engine& engine, std::vector<Arm>& arms, int64_t rows, int64_t weights) {
  const auto bytes = [&](const Arm& arm) {
    return static_cast<double>(weights + arm.sequence->kv_bytes());
  };
  const double first = mean(arms.front().seconds);
  for (const Arm& arm : arms) {
    const double time = mean(arm.seconds), faster = first / time;
    const double fewer = bytes(arms.front()) / bytes(arm);
    std::cout << fmt::format(
                     "| {} | {} | {:.1f} MB | {:.2f} ms | {:.2f} | {:.2f} | {:.2f} | {:.1f} |",
                     rows, arm.name, static_cast<double>(arm.sequence->kv_bytes()) / 1e6,
                     1e3 * time, faster, fewer, faster / fewer,
                     static_cast<double>(arm.recalled) /
                         static_cast<double>(arm.seconds.size() * engine.groups().size()))
              << std::endl;
  }
}

int run(int argc, char** argv) {
  CLI::App app{"A decoded token behind a long text, under several caches"};
  std::vector<int64_t> lengths = {8192, 32768};
  std::vector<std::string> names = {"none/fp16", "streaming/fp16/2048", "arkvale/fp16/2048"};
  CacheRequest request;
  EngineOptions options;
  options.threads = 1;
  std::string model_path, text_path;
  int steps = 21;
  app.add_option("--model", model_path, "A package, GGUF or HF folder (default: a random decoder)");
  app.add_option("--text", text_path, "What --model reads and decodes (default: random rows)");
  app.add_option("--rows", lengths, "Rows of the prompt")->delimiter(',')->capture_default_str();
  app.add_option("--caches", names,
                 "POLICY/CODEC/BUDGET or …/CRUSH, what --kv-crush of the commands says with ; for "
                 "commas; the first is what others stand beside")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  app.add_option("--steps", steps, "Tokens that are timed")->capture_default_str();
  app.add_option("--page-rows", request.page_rows, "As --kv-page-rows of the commands")
      ->capture_default_str();
  app.add_option("--topk", request.topk, "As --kv-topk of the commands");
  app.add_option("--digest", request.digest, "As --kv-digest");
  app.add_option("--select-every", request.select_every, "As --kv-select-every");
  read_options(app, argc, argv);
  require(text_path.empty() || !model_path.empty(), ErrorCode::kRequest,
          "--text {}: a random decoder has no tokenizer; give a --model", text_path);
  const int64_t longest = *std::ranges::max_element(lengths);
  const ModelData model = model_path.empty()
                              ? test::random_model(smollm_spec(longest + 64 + steps), 3)
                              : open_model(model_path);
  Engine engine(model, options);
  std::cout << "| rows | cache | KV | one token | faster | fewer bytes | of the bytes' ratio | "
               "rows back a group |\n|---|---|---|---|---|---|---|---|\n";
  for (const int64_t rows : lengths) {
    const Text text = read_text(model, model_path, text_path, rows, steps + 2);
    std::vector<Arm> arms;
    for (const std::string& name : names) {
      CacheRequest own = request;
      if (!name.starts_with("arkvale")) {
        own = CacheRequest{};
        own.page_rows = request.page_rows;
      }
      arms.push_back(make_arm(engine, name, text, own));
    }
    for (int s = -2; s < steps; ++s) {
      const int32_t token = text.decoded[static_cast<size_t>(s + 2)];
      for (size_t i = 0; i < arms.size(); ++i) {
        Arm& arm = arms[(i + static_cast<size_t>(s + 2)) % arms.size()];  // each after each
        const double seconds = timed_step(engine, *arm.sequence, std::span(&token, 1));
        if (s >= 0) arm.seconds.push_back(seconds);
        if (arm.name.starts_with("arkvale")) note_recalled(engine, arm, s >= 0);
      }
    }
    print(engine, arms, rows, model.weight_bytes());
  }
  return 0;
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  return ashlar::status_of([&] { return ashlar::run(argc, argv); });
}

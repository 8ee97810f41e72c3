#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/explain_cache.h"
#include "cli/model_options.h"
#include "core/base/error.h"
#include "engine/decode/generate.h"
#include "engine/model/session.h"
#include "package/import/open_model.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string model, prompt, session;
  EngineArguments engine;
  SamplingOptions sampling;
  int64_t max_tokens = 128;
  bool json = false, explain = false;
};

SessionOrigin origin_of(const ModelData& model, const CacheChoice& cache) {
  return {weights_sha256(model), cache.options, cache.policy_options};
}

// The text that the session file holds, or a new one where there is none.
std::unique_ptr<Sequence> begin(Engine& engine, const ModelData& model, const CacheChoice& cache,
                                const std::string& session) {
  if (!session.empty() && std::filesystem::exists(session)) {
    return restore_session(engine, origin_of(model, cache), cache.policy, session);
  }
  return engine.start(cache.options, cache.policy, model.start_token.has_value());
}

volatile std::sig_atomic_t interrupted = 0;

void run(const Options& o) {
  const ModelData model = open_model(o.model);
  const auto tokenizer = model_tokenizer(model, o.model);
  GenerateRequest request;
  request.prompt = tokenizer->encode(o.prompt);
  require(!request.prompt.empty() || model.start_token, ErrorCode::kRequest,
          "--prompt: is empty, and this model's texts begin with no start token");
  request.max_tokens = o.max_tokens;
  request.sampling = o.sampling;
  request.stop_tokens = model.stop_tokens;
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const CacheChoice cache = choose_cache(o.engine, model, prompt_tokens + o.max_tokens);
  Engine engine(model, o.engine.engine_options());
  const auto sequence = begin(engine, model, cache, o.session);
  std::optional<CacheExplainer> explainer;
  if (o.explain) explainer.emplace(engine, *sequence);

  interrupted = 0;
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (o.json || piece.empty()) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  // The prompt is echoed only once it has been accepted.
  const auto echo = [&] {
    if (text.empty()) emit(o.prompt);
  };
  StreamDecoder decoder(*tokenizer, request.prompt.empty());
  const GenerateResult result = generate(engine, *sequence, request, [&](int32_t token) {
    echo();
    emit(decoder.push(token));
    if (explainer) explainer->observe();
    return interrupted == 0;
  });
  std::signal(SIGINT, SIG_DFL);
  echo();
  emit(decoder.finish());
  if (explainer) explainer->observe();  // what was read before the text ended
  if (!o.session.empty()) {
    // The token picked last has not been read by the model.
    if (!result.tokens.empty() && sequence->length() < engine.spec().context_length) {
      const StepItem last{sequence.get(), std::span(&result.tokens.back(), 1), true, nullptr};
      engine.feed(std::span(&last, 1));
    }
    save_session(engine, *sequence, origin_of(model, cache), o.session);
  }

  const auto count = static_cast<int64_t>(result.tokens.size());
  const double rate =
      count > 1 ? static_cast<double>(count - 1) / std::max(result.decode_seconds, 1e-9) : 0.0;
  if (!o.json) {
    std::fputc('\n', stdout);
    fmt::print(
        stderr, "[{} prompt tokens in {:.3f} s, {} tokens at {:.1f} tokens/s, KV {} bytes, {}]\n",
        prompt_tokens, result.prompt_seconds, count, rate, sequence->kv_bytes(), result.finish);
    if (explainer) fmt::print("\n{}", explainer->picture());
    return;
  }
  Node ids = Node::list();
  for (int32_t token : result.tokens) ids.push(static_cast<int64_t>(token));
  Node out = Node::Map{{"text", text},
                       {"completion", text.substr(o.prompt.size())},
                       {"tokens", count},
                       {"ids", std::move(ids)},
                       {"prompt_tokens", prompt_tokens},
                       {"prompt_seconds", result.prompt_seconds},
                       {"tokens_per_second", rate},
                       {"kv_bytes", sequence->kv_bytes()},
                       {"kv_backup_bytes", sequence->backup_bytes()},
                       {"kv_backup_file_bytes", engine.backups().file_bytes()},
                       {"finish", result.finish}};
  if (explainer) out.set("explain_cache", explainer->rows());
  print_json(out);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("generate", "Continue a text with a model");
  c->add_option("model", options->model, "Package or importable model")->required();
  c->add_option("--prompt", options->prompt, "Text to continue")->required();
  c->add_option("--max-tokens", options->max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  c->add_option(
      "--session", options->session,
      "File that holds the text so far: --prompt continues it, and what comes out is saved "
      "there again");
  c->add_flag("--explain-cache", options->explain,
              "Also say what became of the cache's rows: step by step with --json (explain_cache), "
              "else as a picture of every lane at the end");
  add_sampling_options(c, options->sampling);
  add_engine_options(c, options->engine);
  add_json_flag(c, options->json);
  c->footer(
      "Example:\n  ashlar generate packages/stories --prompt \"Once upon a time\" --max-tokens "
      "252\n"
      "  ashlar generate runs/demo/decoder/package --prompt \"The list\" --kv-policy h2o "
      "--kv-budget 64\n"
      "  ashlar generate packages/stories --prompt \"Once\" --session story.session --kv-codec q4\n"
      "  ashlar generate packages/stories --prompt \"Once\" --kv-policy streaming --kv-budget 32 "
      "--kv-codec q4 --explain-cache");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli

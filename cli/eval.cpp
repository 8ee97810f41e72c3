#include "cli/eval.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "cli/app.h"
#include "cli/arm_options.h"
#include "cli/engine_fidelity.h"
#include "cli/gnuplot.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/npy.h"
#include "eval/arm_plot.h"
#include "eval/evaluate.h"
#include "eval/perplexity.h"
#include "eval/tasks.h"

namespace ashlar::cli {
namespace fs = std::filesystem;
namespace {

struct Options {
  std::string model, scorer, output, items, plot, protocol = "sliding";
  std::vector<std::string> tasks;
  int64_t context = 0, stride = 0, chunks = 0, prompt = 0, batch = 1, limit = 0;
  BootstrapOptions bootstrap;
  EngineArguments engine;
  ArmLists arms;
  bool fidelity = false, json = false;
};

struct Task {
  std::string text, kind, argument;
};

Task parse_task(const std::string& text) {
  const size_t colon = text.find(':');
  Task task{text, text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)};
  if (is_eval_task(text)) return task;
  std::string known = "ppl:FILE, logits:TOKENS.json";
  for (const TaskKind& kind : task_kinds()) known += ", " + kind.usage;
  require(task.kind == "ppl" || task.kind == "logits", ErrorCode::kRequest,
          "--task {}: '{}' is not one of {}", text, task.kind, known);
  require(!task.argument.empty(), ErrorCode::kRequest, "--task {}: needs a file, {}:FILE", text,
          task.kind);
  return task;
}

class Evaluation {
 public:
  Evaluation(const Options& o, const EvalSupport& support)
      : o_(o), support_(support), model_(support.open(o.model)) {
    const std::string name = o.scorer.empty() ? support.scorers.front() : o.scorer;
    const std::vector<CacheRequest> arms = arms_of(o.arms, o.engine.cache, model_);
    for (const CacheRequest& arm : arms) {
      require(name == "engine" || arm.policy == "none", ErrorCode::kRequest,
              "--kv-policy {}: only the engine has a cache", arm.policy);
    }
    require(name == "engine" || arms.size() == 1, ErrorCode::kRequest,
            "--kv-codec: only the engine has a cache, so only it has several arms");
    require(o.plot.empty() || arms.size() > 1, ErrorCode::kRequest,
            "--plot: draws arms beside each other: list several for --kv-policy, --kv-budget or "
            "--kv-codec");
    arms_ = arms.size();
    scorer_ = support.make_scorer(name, model_, o.engine, arms);
    engine_ = dynamic_cast<EngineScorer*>(scorer_.get());
    require(!o.fidelity || engine_ != nullptr, ErrorCode::kRequest,
            "--fidelity: only the engine has a cache");
    require(o.engine.share.empty() || engine_ != nullptr, ErrorCode::kRequest,
            "--kv-share: only the engine has a cache");
    options_.batch = o.batch;
    options_.bootstrap = o.bootstrap;
    options_.settings = Node::Map{{"model", o.model}};
    if (o.items.empty()) return;
    options_.settings.set("weights_sha256", weights_sha256(model_));
    log_ = std::make_unique<ItemLog>(o.items);
    options_.log = log_.get();
  }

  /// Reads a task's files and refuses what is wrong with it, or with an arm for its texts.
  void prepare(const Task& task) {
    if (task.kind == "logits") {
      require(arms_ == 1, ErrorCode::kRequest, "--task {}: writes one file, so takes one arm",
              task.text);
      require(o_.plot.empty(), ErrorCode::kRequest, "--plot: --task {} has no figures", task.text);
      require(o_.engine.share.empty(), ErrorCode::kRequest,
              "--kv-share: --task {} is one text, which shares with none", task.text);
      prepared_.push_back({task, nullptr});
      return;
    }
    prepared_.push_back({task, task.kind == "ppl" ? perplexity(task) : items_of(task)});
    if (engine_ != nullptr && engine_->depends_on_text()) check_arms(*prepared_.back().items);
  }

  void run() {
    const bool figures =
        std::ranges::any_of(prepared_, [](const Prepared& task) { return task.items != nullptr; });
    if (figures && arms_ == 1 && o_.arms.evicts()) {
      spdlog::info(
          "one arm is compared with nothing, so its share of a full cache is not known: list "
          "`none` "
          "too");
    }
    for (const Prepared& task : prepared_) {
      if (task.items == nullptr) {
        logits(task.task);
        continue;
      }
      add(evaluate(*scorer_, *task.items, options_));
      say_shared(task.task);
      if (!o_.fidelity) continue;
      add(evaluate_fidelity(*make_fidelity_probe(*engine_), *task.items, options_));
    }
  }
  const std::vector<EvalRow>& rows() const { return rows_; }
  /// The first metric of everything that was evaluated.
  const std::vector<Panel>& panels() const { return panels_; }
  size_t arms() const { return arms_; }

 private:
  struct Prepared {
    Task task;
    std::unique_ptr<EvalTask> items;  // null: logits
  };

  void add(std::vector<EvalRow> rows) {
    panels_.emplace_back(rows.front().task, rows.front().metric);
    for (EvalRow& row : rows) rows_.push_back(std::move(row));
  }

  void say_shared(const Task& task) const {
    if (o_.engine.share.empty()) return;
    int64_t most = 0;
    for (const EvalRow& row : rows_) {
      if (row.task == task.text) most = std::max(most, row.kv_shared_tokens);
    }
    spdlog::info("{}: {}{} tokens of common beginnings were not read again", task.text,
                 arms_ > 1 ? "for an arm up to " : "", most);
  }

  // A budget in percent of a short text may be none at all, and an oracle needs something to come:
  // that is known before the first text is read.
  void check_arms(const EvalTask& task) const {
    for (int64_t item = 0; item < task.size(); ++item) {
      for (const ScoreText& text : task.texts(item)) {
        try {
          engine_->check(text);
        } catch (const Error& error) {
          fail(error.code(), "{}: item {} of {} tokens: {}", task.name(), item,
               text.prompt > 0 ? text.prompt : std::ssize(text.tokens), error.what());
        }
      }
    }
  }

  TokenText read_text(const Task& task) const {
    const std::string& path = task.argument;
    TokenText out;
    out.name = task.text;
    if (fs::is_directory(path)) {
      require(support_.read_shards != nullptr, ErrorCode::kRequest,
              "--task ppl:{}: token shards need `ashlar eval`; give a text file", path);
      TokenStream stream = support_.read_shards(path);
      const std::string vocabulary = model_tokenizer(model_, o_.model)->hash();
      require(stream.vocabulary_sha256.empty() || stream.vocabulary_sha256 == vocabulary,
              ErrorCode::kRequest, "{}: these shards were made with another vocabulary than {}'s",
              path, o_.model);
      out.tokens = std::move(stream.tokens);
      out.bytes = stream.bytes;
      return out;
    }
    const std::string text = read_file(path);
    out.tokens = model_tokenizer(model_, o_.model)->encode(text);
    out.bytes = static_cast<int64_t>(text.size());
    return out;
  }

  const Tokenizer& tokenizer() {
    if (tokenizer_ == nullptr) tokenizer_ = model_tokenizer(model_, o_.model);
    return *tokenizer_;
  }

  std::unique_ptr<EvalTask> items_of(const Task& task) {
    return make_eval_task(
        task.text, o_.limit,
        {scorer_->vocab_size(), scorer_->context_length(), o_.arms.evicts() || o_.fidelity,
         [this]() -> const Tokenizer& { return tokenizer(); }});
  }

  std::unique_ptr<EvalTask> perplexity(const Task& task) const {
    TokenText text = read_text(task);
    const int64_t longest = scorer_->context_length();
    const int64_t context = o_.context > 0 ? o_.context : longest;
    require(context <= longest, ErrorCode::kRequest, "context {}: must be 1 to {}", context,
            longest);
    if (o_.protocol == "streaming")
      return streaming_perplexity(std::move(text), context, o_.prompt);
    if (o_.protocol == "sliding") {
      return sliding_perplexity(std::move(text), context, o_.stride > 0 ? o_.stride : context);
    }
    ChunkedPerplexityOptions options;
    options.context = o_.context > 0 ? context : std::min<int64_t>(512, longest);
    options.chunks = o_.chunks;
    if (model_.start_token) {
      options.first_token = static_cast<int32_t>(*model_.start_token);
      text.tokens.insert(text.tokens.begin(), *options.first_token);
    }
    return chunked_perplexity(std::move(text), options);
  }

  void logits(const Task& task) {
    require(!o_.output.empty(), ErrorCode::kRequest, "--task {}: needs --output FILE.npy",
            task.text);
    const Node ids = load_json(task.argument);
    ScoreText text;
    for (const Node& id : ids.as_list()) {
      const int64_t token = id.as_int();
      require(token >= 0 && token < scorer_->vocab_size(), ErrorCode::kRequest,
              "{}: token {} is outside the vocabulary of {}", task.argument, token,
              scorer_->vocab_size());
      text.tokens.push_back(static_cast<int32_t>(token));
    }
    const auto n = static_cast<int64_t>(text.tokens.size());
    require(n > 0 && n <= scorer_->context_length(), ErrorCode::kRequest,
            "{}: {} tokens do not fit the context of {}", task.argument, n,
            scorer_->context_length());
    const std::vector<float> out = scorer_->logits(text.tokens);
    const int64_t shape[] = {n, scorer_->vocab_size()};
    write_npy(o_.output, shape, out);
    EvalRow row{task.text, "rows", static_cast<double>(n), n};
    row.low = row.high = row.value;
    rows_.push_back(std::move(row));
  }

  const Options& o_;
  const EvalSupport& support_;
  ModelData model_;
  size_t arms_ = 1;
  std::unique_ptr<Scorer> scorer_;
  EngineScorer* engine_ = nullptr;  // scorer_, if it is one
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ItemLog> log_;
  EvaluateOptions options_;
  std::vector<Prepared> prepared_;
  std::vector<EvalRow> rows_;
  std::vector<Panel> panels_;
};

// Options that do not belong to the protocol are refused.
void check_protocol(const Options& o) {
  const bool sliding = o.protocol == "sliding", llama = o.protocol == "llama";
  require(sliding || o.stride == 0, ErrorCode::kRequest,
          "--stride: belongs to --protocol sliding; the parts of {} are independent", o.protocol);
  require(llama || o.chunks == 0, ErrorCode::kRequest, "--chunks: belongs to --protocol llama");
  require(o.protocol == "streaming" || o.prompt == 0, ErrorCode::kRequest,
          "--prompt: belongs to --protocol streaming");
}

// A window that is read as one prompt gives a policy nothing to act on.
void check_task(const Options& o, const Task& task) {
  require(task.kind != "ppl" || o.protocol == "streaming" || !o.arms.evicts(), ErrorCode::kRequest,
          "--kv-policy {}: the {} protocol reads each window as one prompt, where no policy acts: "
          "use --protocol streaming",
          fmt::join(o.arms.policies, " "), o.protocol);
  require(o.limit == 0 || is_eval_task(task.text), ErrorCode::kRequest,
          "--limit: --task {} has no items to leave out", task.text);
}

// A list takes every value that follows it, so a model that stands behind one is missing.
void check_model(const Options& o) {
  if (!o.model.empty()) return;
  const std::pair<const char*, const std::vector<std::string>&> lists[] = {
      {"--task", o.tasks},
      {"--kv-policy", o.arms.policies},
      {"--kv-budget", o.arms.budgets},
      {"--kv-codec", o.arms.codecs}};
  for (const auto& [option, values] : lists) {
    if (values.empty() || !fs::exists(values.back())) continue;
    fail(ErrorCode::kRequest,
         "model is required: '{}' was taken for a value of {}, which takes all that follow it. The "
         "model comes first: eval {} --task ...",
         values.back(), option, values.back());
  }
  fail(
      ErrorCode::kRequest,
      "model is required, and comes first: eval MODEL --task ... (--task, --kv-policy, --kv-budget "
      "and --kv-codec take every value that follows them)");
}

void run(const Options& o, const EvalSupport& support) {
  check_model(o);
  check_protocol(o);
  std::vector<Task> tasks;
  for (const std::string& text : o.tasks) {
    tasks.push_back(parse_task(text));
    check_task(o, tasks.back());
  }
  if (!o.plot.empty()) {
    check_plot_file(o.plot);
    const fs::path folder = fs::absolute(o.plot).parent_path();
    require(fs::is_directory(folder), ErrorCode::kRequest, "--plot {}: {}: no such folder", o.plot,
            folder.string());
    require_gnuplot("--plot " + o.plot);
  }
  Evaluation evaluation(o, support);
  for (const Task& task : tasks) evaluation.prepare(task);
  evaluation.run();
  if (o.json) {
    print_json(to_node(evaluation.rows()));
  } else {
    fmt::print("{}", evaluation.arms() > 1 ? arms_to_markdown(evaluation.rows())
                                           : to_markdown(evaluation.rows()));
  }
  if (!o.plot.empty()) run_gnuplot(arms_plot(evaluation.rows(), evaluation.panels(), o.plot));
}

std::string footer() {
  std::string out = "Tasks:\n";
  for (const TaskKind& kind : task_kinds()) {
    out += fmt::format("  {:<32}{}\n", kind.usage, kind.help);
  }
  return out +
         "Examples:\n"
         "  ashlar eval packages/stories --task ppl:story.txt --context 256 --kv-codec q4\n"
         "  ashlar eval packages/stories --task lambada:lambada.jsonl --task blimp:blimp.zip "
         "--limit 100\n"
         "  ashlar eval packages/smollm2 --task \"choice:arc_easy.jsonl,prefix=Question: \" "
         "--kv-share 256MiB\n"
         "  ashlar eval packages/mqar --task mqar:length=64,pairs=4 --kv-policy h2o --kv-budget "
         "50%\n"
         "  ashlar eval packages/mqar --task mqar:length=256,pairs=16 --kv-policy none h2o "
         "streaming --kv-budget 50% 25% 12.5% --kv-codec fp16 q4 --plot arms.svg";
}

}  // namespace

void add_eval(CLI::App& app, const EvalSupport& support) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "Score a run or model on evaluation tasks");
  c->add_option("model", options->model,
                "Run, checkpoint, package or importable model; required, and before all lists");
  c->add_option("--task", options->tasks,
                "ppl:FILE (text, or a folder of token shards), logits:TOKENS.json, or one of the "
                "tasks below; may be given several times")
      ->required();
  c->add_option("--scorer", options->scorer, "Which side computes: train or engine")
      ->check(CLI::IsMember(support.scorers));
  c->add_option("--protocol", options->protocol,
                "sliding: windows of --context tokens every --stride, each token scored once; "
                "llama: llama-perplexity's, independent chunks of --context (default 512), second "
                "half scored; streaming: independent segments of --context, of which --prompt "
                "tokens are read at once and the others one by one, so that a cache policy acts")
      ->check(CLI::IsMember({"sliding", "llama", "streaming"}))
      ->capture_default_str();
  c->add_option("--context", options->context, "Window in tokens (default: the model's context)")
      ->check(CLI::PositiveNumber);
  c->add_option("--stride", options->stride, "Step between windows (default: the window)")
      ->check(CLI::PositiveNumber);
  c->add_option("--chunks", options->chunks, "Chunks of the llama protocol (default: all)")
      ->check(CLI::PositiveNumber);
  c->add_option("--prompt", options->prompt, "Tokens of a segment's prompt (streaming protocol)")
      ->check(CLI::NonNegativeNumber);
  c->add_option("--limit", options->limit,
                "Only the first so many items of each task (blimp: of each set)")
      ->check(CLI::PositiveNumber);
  c->add_option("--batch", options->batch, "Texts the engine reads at once; never changes results")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  c->add_option("--bootstrap", options->bootstrap.resamples,
                "Resamples for the 95 % intervals (0: none)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--seed", options->bootstrap.seed, "Seed of the resamples");
  c->add_option("--items", options->items,
                "JSON lines with the numbers of every item; a run that ended early goes on from "
                "them");
  c->add_flag("--fidelity", options->fidelity,
              "Also compare each cache with a full fp32 one, query by query: KL, top-1 agreement, "
              "error of attention outputs by layer, retained attention by KV group");
  c->add_option("--output", options->output, "File for logits (.npy, float32 [n, vocab])");
  c->add_option("--plot", options->plot,
                "Chart of quality against KV bytes, every arm and the Pareto front, of the first "
                "metric of each task (.svg or .png, by gnuplot)");
  add_engine_options(c, options->engine, options->arms);
  c->add_option(
      "--kv-share", options->engine.share,
      "Keep pages of the cache in so many bytes (256MiB) for texts that begin like earlier "
      "ones, which are not read again; never changes results");
  add_json_flag(c, options->json);
  c->footer(footer());
  c->callback([options, support] { run(*options, support); });
}

}  // namespace ashlar::cli

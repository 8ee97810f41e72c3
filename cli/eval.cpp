#include "cli/eval.h"

#include <filesystem>

#include "cli/app.h"
#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "core/io/npy.h"
#include "eval/perplexity.h"

namespace ashlar::cli {
namespace fs = std::filesystem;
namespace {

struct Options {
  std::string model, scorer, output, protocol = "sliding";
  std::vector<std::string> tasks;
  int64_t context = 0, stride = 0, chunks = 0;
  EngineArguments engine;
  bool json = false;
};

struct Task {
  std::string text, kind, argument;
};

Task parse_task(const std::string& text) {
  const size_t colon = text.find(':');
  Task task{text, text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)};
  require(task.kind == "ppl" || task.kind == "logits", ErrorCode::kRequest,
          "--task {}: '{}' is not one of ppl:FILE, logits:TOKENS.json", text, task.kind);
  require(!task.argument.empty(), ErrorCode::kRequest, "--task {}: needs a file, {}:FILE", text,
          task.kind);
  return task;
}

class Evaluation {
 public:
  Evaluation(const Options& o, const EvalSupport& support)
      : o_(o), support_(support), model_(support.open(o.model)) {
    const std::string name = o.scorer.empty() ? support.scorers.front() : o.scorer;
    scorer_ = support.make_scorer(name, model_, o.engine);
  }

  void run(const Task& task) { task.kind == "ppl" ? perplexity(task) : logits(task); }
  const std::vector<EvalRow>& rows() const { return rows_; }

 private:
  TokenStream read_text(const std::string& path) const {
    if (fs::is_directory(path)) {
      require(support_.read_shards != nullptr, ErrorCode::kRequest,
              "--task ppl:{}: token shards need `ashlar eval`; give a text file", path);
      TokenStream stream = support_.read_shards(path);
      const std::string vocabulary = model_tokenizer(model_, o_.model)->hash();
      require(stream.vocabulary_sha256.empty() || stream.vocabulary_sha256 == vocabulary,
              ErrorCode::kRequest, "{}: these shards were made with another vocabulary than {}'s",
              path, o_.model);
      return stream;
    }
    const std::string text = read_file(path);
    TokenStream stream;
    stream.tokens = model_tokenizer(model_, o_.model)->encode(text);
    stream.bytes = static_cast<int64_t>(text.size());
    return stream;
  }

  void perplexity(const Task& task) {
    TokenStream stream = read_text(task.argument);
    if (o_.protocol == "llama") return llama_perplexity(task, std::move(stream.tokens));
    PerplexityOptions options;
    options.context = o_.context > 0 ? o_.context : scorer_->context_length();
    options.stride = o_.stride > 0 ? o_.stride : options.context;
    const PerplexityResult result =
        sliding_perplexity(*scorer_, stream.tokens, stream.bytes, options);
    for (const EvalRow& row : result.rows(task.text)) rows_.push_back(row);
  }

  void llama_perplexity(const Task& task, std::vector<int32_t> tokens) {
    ChunkedPerplexityOptions options;
    options.context =
        o_.context > 0 ? o_.context : std::min<int64_t>(512, scorer_->context_length());
    options.chunks = o_.chunks;
    if (model_.start_token) {
      options.first_token = static_cast<int32_t>(*model_.start_token);
      tokens.insert(tokens.begin(), *options.first_token);
    }
    for (const EvalRow& row : chunked_perplexity(*scorer_, tokens, options).rows(task.text)) {
      rows_.push_back(row);
    }
  }

  void logits(const Task& task) {
    require(!o_.output.empty(), ErrorCode::kRequest, "--task {}: needs --output FILE.npy",
            task.text);
    const Node ids = load_json(task.argument);
    std::vector<int32_t> tokens;
    for (const Node& id : ids.as_list()) {
      const int64_t token = id.as_int();
      require(token >= 0 && token < scorer_->vocab_size(), ErrorCode::kRequest,
              "{}: token {} is outside the vocabulary of {}", task.argument, token,
              scorer_->vocab_size());
      tokens.push_back(static_cast<int32_t>(token));
    }
    require(!tokens.empty() && static_cast<int64_t>(tokens.size()) <= scorer_->context_length(),
            ErrorCode::kRequest, "{}: {} tokens do not fit the context of {}", task.argument,
            tokens.size(), scorer_->context_length());
    const std::vector<float> out = scorer_->logits(tokens);
    const int64_t shape[] = {static_cast<int64_t>(tokens.size()), scorer_->vocab_size()};
    write_npy(o_.output, shape, out);
    const auto n = static_cast<int64_t>(tokens.size());
    rows_.push_back({task.text, "rows", static_cast<double>(n), n, static_cast<double>(n),
                     static_cast<double>(n)});
  }

  const Options& o_;
  const EvalSupport& support_;
  ModelData model_;
  std::unique_ptr<Scorer> scorer_;
  std::vector<EvalRow> rows_;
};

void run(const Options& o, const EvalSupport& support) {
  const bool llama = o.protocol == "llama";
  require(!llama || o.stride == 0, ErrorCode::kRequest,
          "--stride: the llama protocol has no stride, its chunks are independent");
  require(llama || o.chunks == 0, ErrorCode::kRequest, "--chunks: belongs to --protocol llama");
  std::vector<Task> tasks;
  for (const std::string& text : o.tasks) tasks.push_back(parse_task(text));
  Evaluation evaluation(o, support);
  for (const Task& task : tasks) evaluation.run(task);
  if (o.json) {
    print_json(to_node(evaluation.rows()));
    return;
  }
  fmt::print("| task | metric | value | 95 % interval | n |\n|---|---|---|---|---|\n");
  for (const EvalRow& row : evaluation.rows()) {
    fmt::print("| {} | {} | {:.4f} | {:.4f} – {:.4f} | {} |\n", row.task, row.metric, row.value,
               row.low, row.high, row.n);
  }
}

}  // namespace

void add_eval(CLI::App& app, const EvalSupport& support) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "Score a run or model on evaluation tasks");
  c->add_option("model", options->model, "Run, checkpoint, package or importable model")
      ->required();
  c->add_option("--task", options->tasks,
                "ppl:FILE (text, or a folder of token shards) or logits:TOKENS.json; may be given "
                "several times")
      ->required();
  c->add_option("--scorer", options->scorer, "Which side computes: train or engine")
      ->check(CLI::IsMember(support.scorers));
  c->add_option("--protocol", options->protocol,
                "sliding: windows of --context tokens every --stride, each token scored once; "
                "llama: llama-perplexity's, independent chunks of --context (default 512), second "
                "half scored")
      ->check(CLI::IsMember({"sliding", "llama"}))
      ->capture_default_str();
  c->add_option("--context", options->context, "Window in tokens (default: the model's context)")
      ->check(CLI::PositiveNumber);
  c->add_option("--stride", options->stride, "Step between windows (default: the window)")
      ->check(CLI::PositiveNumber);
  c->add_option("--chunks", options->chunks, "Chunks of the llama protocol (default: all)")
      ->check(CLI::PositiveNumber);
  c->add_option("--output", options->output, "File for logits (.npy, float32 [n, vocab])");
  add_engine_options(c, options->engine);
  add_json_flag(c, options->json);
  c->footer(
      "Example:\n  ashlar eval packages/stories --task ppl:story.txt --context 256 --kv-codec q4");
  c->callback([options, support] { run(*options, support); });
}

}  // namespace ashlar::cli

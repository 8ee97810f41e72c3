#include <memory>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/base/error.h"
#include "data/shards/prepare.h"
#include "data/shards/shard_set.h"
#include "eval/kneser_ney.h"
#include "eval/report.h"

namespace ashlar::cli {
namespace {

struct PrepareArguments {
  std::vector<std::string> inputs;
  std::string tokenizer, output;
  PrepareOptions options;
  bool json = false;
};

Node to_node(const PreparedPart& part) {
  return Node::Map{{"folder", part.folder.string()},
                   {"tokens", part.total.tokens},
                   {"documents", part.total.documents},
                   {"source_bytes", part.total.source_bytes},
                   {"shards", static_cast<int64_t>(part.shards.size())}};
}

void run_prepare(PrepareArguments& a) {
  a.options.inputs.assign(a.inputs.begin(), a.inputs.end());
  a.options.tokenizer = a.tokenizer;
  a.options.output = a.output;
  const PrepareResult result = prepare(a.options);
  if (a.json) {
    Node parts = Node::list();
    for (const PreparedPart& part : result.parts) parts.push(to_node(part));
    print_json(Node::Map{{"output", a.output},
                         {"dtype", result.dtype == DType::kU16 ? "uint16" : "uint32"},
                         {"vocabulary_sha256", result.vocabulary_sha256},
                         {"empty_documents", result.empty_documents},
                         {"parts", std::move(parts)}});
    return;
  }
  for (const PreparedPart& part : result.parts) {
    fmt::print("{}: {} tokens, {} documents, {} bytes of text, {} shard{}\n", part.folder.string(),
               part.total.tokens, part.total.documents, part.total.source_bytes, part.shards.size(),
               part.shards.size() == 1 ? "" : "s");
  }
  if (result.empty_documents > 0) {
    fmt::print("{} empty documents were skipped\n", result.empty_documents);
  }
}

struct BigramArguments {
  std::string train, validation;
  bool json = false;
};

std::vector<int32_t> read_all(const ShardSet& shards) {
  require(shards.samples() == 0, ErrorCode::kRequest, "{}: holds samples, not a token stream",
          shards.folder().string());
  std::vector<int32_t> tokens(static_cast<size_t>(shards.total_tokens()));
  shards.read(0, tokens);
  return tokens;
}

void run_bigram(const BigramArguments& a) {
  const ShardSet train(a.train), validation(a.validation);
  require(train.vocab_size() && train.eos_id(), ErrorCode::kRequest,
          "{}: the shards do not say their vocabulary size and EOS", a.train);
  require(validation.source_bytes().value_or(0) > 0, ErrorCode::kRequest,
          "{}: the shards do not say their source bytes", a.validation);
  require(train.vocabulary_sha256() == validation.vocabulary_sha256(), ErrorCode::kRequest,
          "{} and {} were made with different vocabularies", a.train, a.validation);
  const KneserNeyBigram model(read_all(train), *train.vocab_size(), *train.eos_id());
  const double bits = model.bits(read_all(validation));
  const double per_byte = bits / static_cast<double>(*validation.source_bytes());
  if (a.json) {
    print_json(ashlar::to_node(
        {{"bigram", "bits_per_byte", per_byte, validation.total_tokens(), per_byte, per_byte}}));
    return;
  }
  fmt::print(
      "interpolated Kneser-Ney bigram: {:.4f} bits per byte over {} tokens (discount {:.3f})\n",
      per_byte, validation.total_tokens(), model.discount());
}

void add_prepare(CLI::App& data) {
  auto a = std::make_shared<PrepareArguments>();
  CLI::App* c = data.add_subcommand("prepare", "Turn text into HDF5 token shards");
  c->add_option("--input", a->inputs,
                "Text files: .txt (one document each), .jsonl (key text), "
                "also .gz and .zst")
      ->required();
  c->add_option("--tokenizer", a->tokenizer,
                "tokenizer.json, a folder that holds one, or a llama2.c .bin")
      ->required();
  c->add_option("--output", a->output, "Folder to create")->required();
  c->add_option("--validation-share", a->options.validation_share,
                "Share of the documents for OUTPUT/validation; the rest goes to OUTPUT/train");
  c->add_option("--seed", a->options.seed, "Seed of the split");
  c->add_option("--dtype", a->options.dtype, "auto, uint16 or uint32");
  c->add_option("--shard-tokens", a->options.shard_tokens, "Tokens per shard at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  add_threads_option(c, a->options.threads);
  add_json_flag(c, a->json);
  c->footer(
      "Example:\n  ashlar data prepare --input novels.jsonl.zst --tokenizer tokenizer.json "
      "--validation-share 0.02 --output data/novels");
  c->callback([a] { run_prepare(*a); });
}

void add_bigram(CLI::App& data) {
  auto a = std::make_shared<BigramArguments>();
  CLI::App* c = data.add_subcommand(
      "bigram", "Bits per byte of a Kneser-Ney bigram model: the baseline to beat");
  c->add_option("--train", a->train, "Shards to train on")->required();
  c->add_option("--validation", a->validation, "Shards to score")->required();
  add_json_flag(c, a->json);
  c->footer(
      "Example:\n  ashlar data bigram --train data/novels/train --validation "
      "data/novels/validation");
  c->callback([a] { run_bigram(*a); });
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Token shards for training");
  data->require_subcommand(1);
  data->footer("Example:\n  ashlar data prepare --help");
  add_prepare(*data);
  add_bigram(*data);
}

}  // namespace ashlar::cli

#include <algorithm>
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
  std::string dedup = "none", long_documents = "error";
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

std::string table_row(const std::string& name, const InputStatistics& s) {
  const double per_token =
      s.tokens > 0 ? static_cast<double>(s.bytes) / static_cast<double>(s.tokens) : 0;
  return fmt::format("{:<32} {:>10} {:>14} {:>14} {:>6.3f} {:>7} {:>7} {:>7} {:>8}\n", name,
                     s.documents, s.tokens, s.bytes, per_token, s.empty, s.exact_duplicates,
                     s.near_duplicates, s.too_long);
}

void print_statistics(const PrepareStatistics& s) {
  constexpr size_t kMostFiles = 20;  // the rest is in data_params.json
  fmt::print("\n{:<32} {:>10} {:>14} {:>14} {:>6} {:>7} {:>7} {:>7} {:>8}\n", "input", "documents",
             "tokens", "bytes", "B/tok", "empty", "exact", "near", "too long");
  for (size_t i = 0; i < std::min(s.files.size(), kMostFiles); ++i) {
    fmt::print("{}", table_row(s.files[i].file, s.files[i]));
  }
  if (s.files.size() > kMostFiles) fmt::print("… {} more files\n", s.files.size() - kMostFiles);
  if (s.files.size() > 1) fmt::print("{}", table_row("all", s.total));
  fmt::print("longest document: {} tokens, {}\n", s.longest_tokens, s.longest_document);
}

void run_prepare(PrepareArguments& a) {
  a.options.inputs.assign(a.inputs.begin(), a.inputs.end());
  a.options.tokenizer = a.tokenizer;
  a.options.output = a.output;
  a.options.skip_long = a.long_documents == "skip";
  if (a.dedup != "none") {
    a.options.duplicates.kind = a.dedup == "near" ? Duplicates::kNear : Duplicates::kExact;
  }
  const PrepareResult result = prepare(a.options);
  const PrepareStatistics& s = result.statistics;
  if (a.json) {
    Node parts = Node::list();
    for (const PreparedPart& part : result.parts) parts.push(to_node(part));
    print_json(Node::Map{{"output", a.output},
                         {"dtype", result.dtype == DType::kU16 ? "uint16" : "uint32"},
                         {"vocabulary_sha256", result.vocabulary_sha256},
                         {"empty_documents", s.total.empty},
                         {"continued_from", result.continued_from},
                         {"parts", std::move(parts)},
                         {"statistics", ashlar::to_node(s)}});
    return;
  }
  for (const PreparedPart& part : result.parts) {
    fmt::print("{}: {} tokens, {} documents, {} bytes of text, {} shard{}\n", part.folder.string(),
               part.total.tokens, part.total.documents, part.total.source_bytes, part.shards.size(),
               part.shards.size() == 1 ? "" : "s");
  }
  print_statistics(s);
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

void add_filters(CLI::App* c, PrepareArguments& a) {
  PrepareOptions& o = a.options;
  c->add_option("--dedup", a.dedup,
                "Leave out duplicates of earlier documents: exact (the same bytes) or near (also "
                "nearly the same words)")
      ->check(CLI::IsMember({"none", "exact", "near"}))
      ->capture_default_str();
  c->add_option("--dedup-threshold", o.duplicates.threshold,
                "near: estimated Jaccard similarity of the word n-grams from which on a document "
                "is a duplicate")
      ->capture_default_str();
  c->add_option("--dedup-ngram", o.duplicates.ngram, "near: words of an n-gram")
      ->capture_default_str();
  c->add_option("--dedup-bands", o.duplicates.bands, "near: bands of a MinHash signature")
      ->capture_default_str();
  c->add_option("--dedup-rows", o.duplicates.rows, "near: values of a band")->capture_default_str();
  c->add_option("--memory", o.memory,
                "Bytes that text on its way may take, such as 512MB or 4GiB (without the index of "
                "--dedup and the vocabulary)")
      ->transform(CLI::AsSizeValue(false))
      ->default_str("4GiB");
  c->add_option("--max-document", o.max_document,
                "Longest document: bytes of a line of .jsonl or of a .txt; default and most: a "
                "thirty-second of --memory")
      ->transform(CLI::AsSizeValue(false));
  c->add_option("--long-documents", a.long_documents,
                "What a longer document is: an error, or one to skip")
      ->check(CLI::IsMember({"error", "skip"}))
      ->capture_default_str();
}

void add_prepare(CLI::App& data) {
  auto a = std::make_shared<PrepareArguments>();
  CLI::App* c = data.add_subcommand("prepare", "Turn text into HDF5 token shards");
  c->add_option("--input", a->inputs,
                "Text files: .txt (one document each), .jsonl (one a line), also .gz and .zst; a "
                "folder stands for all of these in it, sorted")
      ->required();
  c->add_option("--text-key", a->options.text_key, "Key of a .jsonl line that holds the text")
      ->capture_default_str();
  c->add_option("--tokenizer", a->tokenizer,
                "tokenizer.json, a folder that holds one, or a llama2.c .bin")
      ->required();
  c->add_option("--output", a->output,
                "Folder to create. Until it is complete, OUTPUT.partial holds what was done, and "
                "the same command continues there")
      ->required();
  c->add_flag("--restart", a->options.restart, "Discard what is in OUTPUT.partial");
  c->add_option("--validation-share", a->options.validation_share,
                "Share of the documents for OUTPUT/validation; the rest goes to OUTPUT/train");
  c->add_option("--seed", a->options.seed, "Seed of the split");
  c->add_option("--dtype", a->options.dtype, "auto, uint16 or uint32");
  c->add_option("--shard-tokens", a->options.shard_tokens, "Tokens per shard at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  add_filters(c, *a);
  add_threads_option(c, a->options.threads);
  add_json_flag(c, a->json);
  c->footer(
      "Example:\n  ashlar data prepare --input novels.jsonl.zst --tokenizer tokenizer.json "
      "--validation-share 0.02 --output data/novels\n  ashlar data prepare --input crawl/ --dedup "
      "near "
      "--tokenizer tokenizer.json --output data/crawl");
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

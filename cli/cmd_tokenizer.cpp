#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <sstream>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/base/threads.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/shards/documents.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/train_bpe.h"

namespace ashlar::cli {
namespace {

struct TrainArguments {
  std::vector<std::string> inputs;
  std::string output;
  BpeTrainOptions options;
  bool json = false;
};

void run_train(const TrainArguments& a) {
  BpeTrainer trainer(a.options);
  DocumentReader reader({a.inputs.begin(), a.inputs.end()});
  Progress progress("words", reader.total_bytes());
  constexpr size_t kBatchBytes = 16 << 20;
  bool more = true;
  while (more) {
    std::vector<std::string> documents;
    std::string document;
    size_t bytes = 0;
    while (bytes < kBatchBytes && (more = reader.next(document))) {
      bytes += document.size();
      documents.push_back(std::move(document));
    }
    trainer.add(documents);
    progress.update(reader.consumed_bytes());
  }
  write_file_atomically(a.output, trainer.train());
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(a.output);
  if (a.json) {
    print_json(Node::Map{{"output", a.output},
                         {"vocab_size", tokenizer->vocab_size()},
                         {"vocabulary_sha256", tokenizer->hash()}});
    return;
  }
  fmt::print("{}: {}\n", a.output, tokenizer->description());
}

/// The bytes of a file, or of standard input for "-".
std::string read_input(const std::string& path) {
  if (path != "-") return read_file(path);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

struct EncodeArguments {
  std::string tokenizer, input;
  bool special = false, plain = false, lossy = false, json = false;
  int threads = 0;
};

void run_encode(const EncodeArguments& a) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(a.tokenizer);
  ThreadPool pool(a.threads);
  const std::vector<int32_t> ids = tokenizer->encode_parallel(
      read_input(a.input), pool,
      {.add_special = a.special, .parse_special = !a.plain, .lossy = a.lossy});
  if (a.json) {
    Node list = Node::list();
    for (int32_t id : ids) list.push(id);
    print_json(Node::Map{{"ids", std::move(list)}});
    return;
  }
  fmt::print("{}\n", fmt::join(ids, " "));
}

/// Ids from JSON, a list or an object with `ids`, or from words separated by white space.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& where) {
  std::vector<int32_t> ids;
  const auto push = [&](int64_t id) {
    require(id >= 0 && id <= std::numeric_limits<int32_t>::max(), ErrorCode::kRequest,
            "{}: {} is not a token id", where, id);
    ids.push_back(static_cast<int32_t>(id));
  };
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (text[first] == '[' || text[first] == '{')) {
    const Node root = parse_json(text, where);
    const Node* list = root.is_map() ? root.find("ids") : &root;
    require(list != nullptr, ErrorCode::kRequest, "{}: ids: missing", where);
    for (const Node& id : list->as_list()) push(id.as_int());
    return ids;
  }
  std::istringstream words(text);
  int64_t id = 0;
  while (words >> id) push(id);
  require(words.eof(), ErrorCode::kRequest, "{}: expected token ids", where);
  return ids;
}

struct DecodeArguments {
  std::string tokenizer, input;
  bool special = false, json = false;
};

void run_decode(const DecodeArguments& a) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(a.tokenizer);
  const std::string text = tokenizer->decode(parse_ids(read_input(a.input), a.input), a.special);
  if (a.json) {
    print_json(Node::Map{{"text", to_valid_utf8(text)}});
    return;
  }
  std::fwrite(text.data(), 1, text.size(), stdout);  // the bytes as they are
  std::fflush(stdout);
}

constexpr const char* kTokenizerHelp =
    "tokenizer.json, a folder that holds one (a package), a GGUF file, a SentencePiece .model, or "
    "a "
    "llama2.c .bin";

void add_train(CLI::App& tokenizer) {
  auto a = std::make_shared<TrainArguments>();
  CLI::App* c = tokenizer.add_subcommand("train", "Train a byte-level BPE vocabulary");
  c->add_option("--input", a->inputs, "Text files: .txt, .jsonl, also .gz and .zst")->required();
  c->add_option("--vocab-size", a->options.vocab_size, "Tokens, bytes and special ones included")
      ->required();
  c->add_option("--output", a->output, "tokenizer.json to write")->required();
  c->add_option("--special", a->options.special_tokens,
                "Special tokens, the end of a document first (default: <|endoftext|>)");
  c->add_option("--min-frequency", a->options.min_frequency, "Pairs seen less often never merge")
      ->check(CLI::NonNegativeNumber);
  add_threads_option(c, a->options.threads);
  add_json_flag(c, a->json);
  c->footer(
      "Example:\n  ashlar tokenizer train --input novels.jsonl.zst --vocab-size 4096 --output "
      "tokenizer.json");
  c->callback([a] { run_train(*a); });
}

void add_encode(CLI::App& tokenizer) {
  auto a = std::make_shared<EncodeArguments>();
  CLI::App* c = tokenizer.add_subcommand("encode", "Text to token ids");
  c->add_option("--tokenizer", a->tokenizer, kTokenizerHelp)->required();
  c->add_option("--input", a->input, "Text file, or - for standard input")->required();
  c->add_flag("--special", a->special, "Add the vocabulary's special tokens around the text");
  c->add_flag("--plain", a->plain, "Special tokens written in the text are text");
  c->add_flag("--lossy", a->lossy, "Leave out bytes the vocabulary has no token for");
  add_threads_option(c, a->threads);
  add_json_flag(c, a->json);
  c->footer("Example:\n  ashlar tokenizer encode --tokenizer tok512.bin --input prompt.txt --json");
  c->callback([a] { run_encode(*a); });
}

void add_decode(CLI::App& tokenizer) {
  auto a = std::make_shared<DecodeArguments>();
  CLI::App* c = tokenizer.add_subcommand("decode", "Token ids to text");
  c->add_option("--tokenizer", a->tokenizer, kTokenizerHelp)->required();
  c->add_option("--input", a->input,
                "File with ids, or - for standard input: words, a JSON list, or {\"ids\": [...]}")
      ->required();
  c->add_flag("--special", a->special, "Write special tokens out instead of leaving them out");
  add_json_flag(c, a->json);
  c->footer(
      "Example:\n  echo 1 403 407 261 378 | ashlar tokenizer decode --tokenizer tok512.bin --input "
      "-");
  c->callback([a] { run_decode(*a); });
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Train and use vocabularies");
  tokenizer->require_subcommand(1);
  tokenizer->footer("Example:\n  ashlar tokenizer train --help");
  add_train(*tokenizer);
  add_encode(*tokenizer);
  add_decode(*tokenizer);
}

}  // namespace ashlar::cli

// Encoding documents and training a vocabulary, timed for bench/tokenizer.py, which runs the same
// with Hugging Face's `tokenizers` in turn and checks that both give the same ids.
//
//   bench_tokenizer encode --tokenizer T --input FILE... --threads N [--dump FILE]
//   bench_tokenizer train --vocab-size N --output FILE --input FILE... --threads N [--dump FILE]
//
// Reads the documents into memory, says so in a line of JSON, then runs once for every line on
// standard input and answers with a line: seconds, tokens, a hash of all ids.
#include "data/tokenizer/tokenizer.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iostream>

#include "bench/status.h"
#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/shards/documents.h"
#include "data/tokenizer/train_bpe.h"

namespace ashlar {
namespace {

struct Options {
  std::vector<std::string> inputs;
  std::string tokenizer, output, dump;
  int64_t megabytes = 0;  ///< 0: all
  int64_t batch = 32;     ///< documents encoded at once
  int64_t piece = 0;      ///< documents are cut at line ends into pieces of so many bytes; 0: whole
  bool one_text = false;  ///< all documents as one
  int threads = 1;
  BpeTrainOptions train;
};

std::vector<std::string> read_documents(const Options& options, int64_t& bytes) {
  DocumentReader reader({options.inputs.begin(), options.inputs.end()});
  std::vector<std::string> documents;
  std::string document;
  while (reader.next(document)) {
    bytes += static_cast<int64_t>(document.size());
    documents.push_back(std::move(document));
    if (options.megabytes > 0 && bytes >= options.megabytes * 1'000'000) break;
  }
  return documents;
}

std::vector<std::string> cut(const std::vector<std::string>& documents, int64_t bytes) {
  std::vector<std::string> out;
  for (const std::string& document : documents) {
    for (size_t begin = 0; begin < document.size();) {
      const size_t end = document.find('\n', begin + static_cast<size_t>(bytes));
      out.push_back(document.substr(begin, end == std::string::npos ? end : end + 1 - begin));
      begin += out.back().size();
    }
  }
  return out;
}

/// Each document as uint64 size and its bytes.
void dump(const std::vector<std::string>& documents, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const std::string& document : documents) {
    const uint64_t size = document.size();
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file.write(document.data(), static_cast<std::streamsize>(size));
  }
  require(file.good(), ErrorCode::kResource, "{}: cannot write", path);
}

/// A polynomial over all ids in order, modulo 2^64.
uint64_t add_hash(uint64_t hash, const std::vector<int32_t>& ids) {
  for (int32_t id : ids) hash = hash * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(id) + 1;
  return hash;
}

/// Seconds that passed and seconds of all threads' processor time, which other programs disturb
/// less.
class Timer {
 public:
  double wall() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double cpu() const { return static_cast<double>(std::clock() - cpu_start_) / CLOCKS_PER_SEC; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::clock_t cpu_start_ = std::clock();
};

Node encode_once(const Options& options, const Tokenizer& tokenizer,
                 const std::vector<std::string>& documents, ThreadPool& pool) {
  double seconds = 0, cpu = 0;
  int64_t tokens = 0;
  uint64_t hash = 0;
  const auto count = static_cast<int64_t>(documents.size());
  for (int64_t first = 0; first < count; first += options.batch) {
    const int64_t size = std::min(options.batch, count - first);
    std::vector<std::vector<int32_t>> ids(static_cast<size_t>(size));
    const Timer timer;
    if (options.one_text) {
      ids[0] = tokenizer.encode_parallel(documents[0], pool);
    } else {
      pool.parallel_for(size, [&](int64_t i, int) {
        ids[static_cast<size_t>(i)] = tokenizer.encode(documents[static_cast<size_t>(first + i)]);
      });
    }
    seconds += timer.wall();
    cpu += timer.cpu();
    for (const std::vector<int32_t>& one : ids) {
      tokens += static_cast<int64_t>(one.size());
      hash = add_hash(hash, one);
    }
  }
  return Node::Map{{"seconds", seconds},
                   {"cpu", cpu},
                   {"tokens", tokens},
                   {"hash", fmt::format("{:016x}", hash)}};
}

Node train_once(const Options& options, const std::vector<std::string>& documents) {
  const Timer timer;
  BpeTrainOptions train = options.train;
  train.threads = options.threads;
  BpeTrainer trainer(train);
  trainer.add(documents);
  const std::string json = trainer.train();
  const Node took = Node::Map{{"seconds", timer.wall()}, {"cpu", timer.cpu()}};
  write_file_atomically(options.output, json);
  return took;
}

void run(const Options& options) {
  int64_t bytes = 0;
  std::vector<std::string> documents = read_documents(options, bytes);
  if (options.piece > 0) documents = cut(documents, options.piece);
  if (options.one_text) documents = {fmt::format("{}", fmt::join(documents, "\n"))};
  if (!options.dump.empty()) dump(documents, options.dump);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) tokenizer = load_tokenizer(options.tokenizer);
  ThreadPool pool(options.threads);
  const auto say = [](const Node& node) { std::cout << write_json(node) << std::endl; };
  say(Node::Map{{"documents", static_cast<int64_t>(documents.size())}, {"bytes", bytes}});
  std::string line;
  while (std::getline(std::cin, line)) {
    say(tokenizer ? encode_once(options, *tokenizer, documents, pool)
                  : train_once(options, documents));
  }
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  ashlar::Options options;
  CLI::App app("Encoding and training of vocabularies, timed (bench/tokenizer.py)");
  app.require_subcommand(1);
  CLI::App* encode = app.add_subcommand("encode", "Text to ids");
  encode->add_option("--tokenizer", options.tokenizer)->required();
  encode->add_flag("--one-text", options.one_text, "All documents as one text");
  encode->add_option("--batch", options.batch, "Documents encoded at once");
  CLI::App* train = app.add_subcommand("train", "A byte-level BPE vocabulary");
  train->add_option("--vocab-size", options.train.vocab_size)->required();
  train->add_option("--output", options.output)->required();
  for (CLI::App* command : {encode, train}) {
    command->add_option("--input", options.inputs)->required();
    command->add_option("--threads", options.threads);
    command->add_option("--megabytes", options.megabytes, "Of text, about; default: all");
    command->add_option("--piece", options.piece, "Cuts documents at line ends, bytes");
    command->add_option("--dump", options.dump, "Writes the documents, each after its size");
  }
  return ashlar::status_of([&] {
    ashlar::read_options(app, argc, argv);
    ashlar::run(options);
    return 0;
  });
}

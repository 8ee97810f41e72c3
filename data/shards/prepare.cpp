#include "data/shards/prepare.h"

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/shards/documents.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatchBytes = 16 << 20;
constexpr uint64_t kSplitStream = 0x73706c6974;  // "split": keeps the split's draws apart

DType choose_dtype(const PrepareOptions& options, int64_t vocab_size) {
  require(options.dtype == "auto" || options.dtype == "uint16" || options.dtype == "uint32",
          ErrorCode::kRequest, "dtype '{}': must be auto, uint16 or uint32", options.dtype);
  if (options.dtype == "uint32") return DType::kU32;
  if (options.dtype == "auto") return vocab_size > 65536 ? DType::kU32 : DType::kU16;
  require(vocab_size <= 65536, ErrorCode::kRequest,
          "{}: a vocabulary of {} tokens does not fit uint16: use --dtype uint32",
          options.tokenizer.string(), vocab_size);
  return DType::kU16;
}

struct Part {
  std::string name;  ///< "", "train" or "validation"
  std::unique_ptr<ShardWriter> writer;
};

Node params_of(const PrepareOptions& options, const PreparedPart& part, const std::string& name,
               const Tokenizer& tokenizer, const PrepareResult& result) {
  Node node = Node::map();
  node.set("format", "ashlar-tokens-1");
  node.set("dtype", result.dtype == DType::kU16 ? "uint16" : "uint32");
  node.set("vocab_size", tokenizer.vocab_size());
  node.set("vocabulary_sha256", result.vocabulary_sha256);
  node.set("eos_id", int64_t{*tokenizer.eos_id()});
  node.set("tokens", part.total.tokens);
  node.set("documents", part.total.documents);
  node.set("source_bytes", part.total.source_bytes);
  Node inputs = Node::list();
  for (const fs::path& input : options.inputs) inputs.push(input.filename().string());
  node.set("inputs", std::move(inputs));
  if (!name.empty()) {
    node.set("part", name);
    node.set("validation_share", options.validation_share);
    node.set("seed", std::to_string(options.seed));  // 64 bits: more than JSON readers keep
  }
  Node shards = Node::list();
  for (const ShardInfo& shard : part.shards) {
    Node entry = Node::map();
    entry.set("file", shard.file);
    entry.set("tokens", shard.tokens);
    entry.set("documents", shard.documents);
    entry.set("source_bytes", shard.source_bytes);
    shards.push(std::move(entry));
  }
  node.set("shards", std::move(shards));
  return node;
}

/// Reads, tokenizes and writes all documents; returns the number of empty ones.
int64_t run(const PrepareOptions& options, const Tokenizer& tokenizer, std::vector<Part>& parts) {
  ThreadPool pool(options.threads);
  DocumentReader reader(options.inputs);
  Progress progress("tokens", reader.total_bytes());
  const Philox split(options.seed, kSplitStream);
  int64_t empty = 0;
  uint64_t number = 0;
  bool more = true;
  while (more) {
    std::vector<std::string> documents;
    int64_t bytes = 0;
    std::string document;
    while (bytes < kBatchBytes && (more = reader.next(document))) {
      bytes += static_cast<int64_t>(document.size());
      documents.push_back(std::move(document));
    }
    std::vector<std::vector<int32_t>> ids(documents.size());
    pool.parallel_for(static_cast<int64_t>(documents.size()), [&](int64_t i, int) {
      ids[static_cast<size_t>(i)] = tokenizer.encode(documents[static_cast<size_t>(i)]);
    });
    for (size_t i = 0; i < documents.size(); ++i, ++number) {
      if (ids[i].empty()) {
        ++empty;
        continue;
      }
      const bool held_out = parts.size() > 1 && split.uniform(number) < options.validation_share;
      parts[held_out ? 1 : 0].writer->add(ids[i], static_cast<int64_t>(documents[i].size()));
    }
    progress.update(reader.consumed_bytes());
  }
  return empty;
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options) {
  require(options.validation_share >= 0 && options.validation_share < 1, ErrorCode::kRequest,
          "validation share {}: must be in [0, 1)", options.validation_share);
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(options.tokenizer);
  require(tokenizer->eos_id().has_value(), ErrorCode::kRequest,
          "{}: has no end-of-text token to put between documents", options.tokenizer.string());
  PrepareResult result;
  result.vocabulary_sha256 = tokenizer->hash();
  result.dtype = choose_dtype(options, tokenizer->vocab_size());
  DocumentReader check_inputs(options.inputs);

  AtomicFolder output(options.output);
  std::vector<Part> parts;
  const std::vector<std::string> names = options.validation_share > 0
                                             ? std::vector<std::string>{"train", "validation"}
                                             : std::vector<std::string>{""};
  for (const std::string& name : names) {
    ShardWriter::Options shard;
    shard.folder = output.staging() / name;
    fs::create_directories(shard.folder);
    shard.dtype = result.dtype;
    shard.vocab_size = tokenizer->vocab_size();
    shard.eos_id = *tokenizer->eos_id();
    shard.vocabulary_sha256 = result.vocabulary_sha256;
    shard.shard_tokens = options.shard_tokens;
    parts.push_back({name, std::make_unique<ShardWriter>(shard)});
  }
  result.empty_documents = run(options, *tokenizer, parts);

  for (Part& part : parts) {
    PreparedPart done;
    done.folder = options.output / part.name;
    done.shards = part.writer->finish();
    for (const ShardInfo& shard : done.shards) {
      done.total.tokens += shard.tokens;
      done.total.documents += shard.documents;
      done.total.source_bytes += shard.source_bytes;
    }
    require(!done.shards.empty(), ErrorCode::kRequest, "{}",
            part.name.empty() ? std::string("the input holds no text")
                              : "no document fell into " + part.name +
                                    ": change the validation share or the seed");
    const fs::path folder = output.staging() / part.name;
    write_file_atomically(
        folder / "data_params.json",
        write_json(params_of(options, done, part.name, *tokenizer, result), 2) + "\n");
    write_file_atomically(folder / "tokenizer.json", tokenizer->json());
    result.parts.push_back(std::move(done));
  }
  output.commit();
  return result;
}

}  // namespace ashlar

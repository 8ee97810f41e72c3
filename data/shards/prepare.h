#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/shards/shard_writer.h"

namespace ashlar {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  ///< .txt, .jsonl, also .gz, .zst
  std::filesystem::path tokenizer;            ///< see load_tokenizer
  std::filesystem::path output;               ///< must not exist yet
  double validation_share = 0;                ///< of the documents, in [0, 1)
  uint64_t seed = 0;                          ///< of the split
  std::string dtype = "auto";                 ///< auto, uint16, uint32
  int64_t shard_tokens = int64_t{1} << 28;
  int threads = 0;  ///< 0: the cores this process may use
};

/// One folder of shards: the whole output, or one part of a split.
struct PreparedPart {
  std::filesystem::path folder;
  std::vector<ShardInfo> shards;
  ShardInfo total;  ///< sums; `file` is empty
};

struct PrepareResult {
  std::vector<PreparedPart> parts;  ///< one, or train and validation
  int64_t empty_documents = 0;      ///< skipped
  std::string vocabulary_sha256;
  DType dtype = DType::kU16;
};

/// Turns text into token shards. Tokens come in the order of the input on any number of threads;
/// special tokens written in the text stay text; EOS follows each document. With a validation share
/// whole documents go to `output`/train or `output`/validation by a hash of (seed, document
/// number). Beside the shards lie data_params.json and tokenizer.json. The output folder appears
/// whole or not at all. Throws Error(kRequest) for a wrong request (a vocabulary that does not fit
/// the dtype, a split that leaves a part empty), Error(kData) for damaged input.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace ashlar

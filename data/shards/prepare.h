#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "data/shards/duplicates.h"
#include "data/shards/shard_writer.h"

namespace ashlar {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  ///< see list_inputs
  std::string text_key = "text";              ///< of a .jsonl's objects
  std::filesystem::path tokenizer;            ///< see load_tokenizer
  std::filesystem::path output;               ///< must not exist yet
  double validation_share = 0;                ///< of the documents, in [0, 1)
  uint64_t seed = 0;                          ///< of the split
  std::string dtype = "auto";                 ///< auto, uint16, uint32
  int64_t shard_tokens = int64_t{1} << 28;
  DuplicateOptions duplicates;
  int64_t memory = int64_t{4} << 30;  ///< bytes of text in flight; see DocumentPipeline
  int64_t max_document = 0;           ///< bytes of a line or .txt; 0: memory/32, which is the most
  bool skip_long = false;             ///< passes over longer documents instead of failing
  bool restart = false;               ///< discards what an interrupted preparation left
  int64_t checkpoint_bytes = int64_t{64} << 20;  ///< of text between two places to continue from
  int threads = 0;                               ///< 0: the cores this process may use
};

/// What became of the documents of one file, or of all.
struct InputStatistics {
  std::string file;                              ///< name without folder
  int64_t documents = 0, tokens = 0, bytes = 0;  ///< written; tokens with EOS, bytes of text
  int64_t empty = 0, exact_duplicates = 0, near_duplicates = 0, too_long = 0;  ///< left out
};

struct PrepareStatistics {
  InputStatistics total;         ///< `file` is empty
  int64_t longest_tokens = 0;    ///< of a document that was written, without EOS
  std::string longest_document;  ///< "file:line" without folder
  std::vector<InputStatistics> files;
};

/// For data_params.json and --json.
Node to_node(const PrepareStatistics& statistics);

/// One folder of shards: the whole output, or one part of a split.
struct PreparedPart {
  std::filesystem::path folder;
  std::vector<ShardInfo> shards;
  ShardInfo total;  ///< sums; `file` is empty
};

struct PrepareResult {
  std::vector<PreparedPart> parts;  ///< one, or train and validation
  PrepareStatistics statistics;
  std::string vocabulary_sha256;
  DType dtype = DType::kU16;
  int64_t continued_from = 0;  ///< documents that an interrupted preparation had done
};

/// Turns text into token shards. Tokens come in the order of the input on any number of threads;
/// special tokens written in the text stay text; EOS follows each document. Duplicates are left out
/// before anything else; with a validation share whole documents then go to `output`/train or
/// `output`/validation by a hash of (seed, number of the document in the input). Beside the shards
/// lie data_params.json and tokenizer.json.
///
/// The output folder appears whole or not at all. Until then everything is in `output`.partial with
/// a journal: the same request continues from there after a crash or a kill, and the output is byte
/// for byte that of an uninterrupted run.
///
/// Throws Error(kRequest) for a wrong request (a vocabulary that does not fit the dtype, a split
/// that leaves a part empty, another request than the interrupted one, a second process in the same
/// folder), Error(kData) for damaged input.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace ashlar

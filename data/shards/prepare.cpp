#include "data/shards/prepare.h"

#include <malloc.h>
#include <spdlog/spdlog.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/cpu.h"
#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "data/shards/pipeline.h"
#include "data/shards/prepare_journal.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongDocument = 2 << 20;
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

/// The options with every default filled in, checked.
PrepareOptions resolved(PrepareOptions o) {
  require(o.validation_share >= 0 && o.validation_share < 1, ErrorCode::kRequest,
          "validation share {}: must be in [0, 1)", o.validation_share);
  require(o.threads >= 0 && o.threads <= 4096, ErrorCode::kRequest,
          "threads: {} is not between 1 and 4096", o.threads);
  if (o.threads == 0) o.threads = cpu_features().cores;
  require(o.memory >= DocumentPipeline::kLeastMemory, ErrorCode::kRequest,
          "memory of {} bytes: must be at least {}", o.memory, DocumentPipeline::kLeastMemory);
  if (o.max_document == 0) o.max_document = o.memory / 16;
  require(o.max_document >= 1 && o.max_document <= o.memory / 16, ErrorCode::kRequest,
          "documents of up to {} bytes need --memory of at least 16 times that, not {}",
          o.max_document, o.memory);
  ASHLAR_CHECK_GE(o.checkpoint_bytes, 1);
  validate(o.duplicates);
  return o;
}

class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options);
  PrepareResult run();

 private:
  void begin();
  void restore_keys();
  void write_documents();
  std::vector<int32_t> encode(const std::string& text, ThreadPool& pool);
  void take(const Chunk& chunk);
  void take(const PreparedDocument& document, const InputFile& file, InputStatistics& of_file);
  void checkpoint();
  void finish();
  std::string name_of(size_t part) const;
  fs::path folder_of(size_t part) const { return folder_.shards() / name_of(part); }
  PreparedPart part_of(size_t part) const;
  Node params_of(size_t part) const;

  PrepareOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  DType dtype_;
  std::vector<InputFile> files_;
  DocumentHasher hasher_;
  DuplicateIndex duplicates_;
  Philox split_;
  Node request_;
  PrepareFolder folder_;

  std::mutex pool_mutex_;  ///< of the pool for long documents
  PrepareProgress progress_;
  std::vector<std::unique_ptr<ShardWriter>> writers_;
  std::unique_ptr<GrowingFile> keys_;  ///< of kept documents, where duplicates are looked for
  int64_t since_checkpoint_ = 0;       ///< bytes of text
  bool saved_ = false;                 ///< the journal knows of documents
};

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& path) {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
  require(tokenizer->eos_id().has_value(), ErrorCode::kRequest,
          "{}: has no end-of-text token to put between documents", path.string());
  return tokenizer;
}

Preparation::Preparation(const PrepareOptions& options)
    : options_(resolved(options)),
      tokenizer_(open_tokenizer(options.tokenizer)),
      dtype_(choose_dtype(options, tokenizer_->vocab_size())),
      files_(list_inputs(options.inputs)),
      hasher_(options.duplicates),
      duplicates_(options.duplicates),
      split_(options.seed, kSplitStream),
      request_(request_of(options_, tokenizer_->hash(), dtype_)),
      folder_(options.output) {}

std::string Preparation::name_of(size_t part) const {
  if (options_.validation_share == 0) return "";
  return part == 0 ? "train" : "validation";
}

void Preparation::begin() {
  const size_t parts = options_.validation_share > 0 ? 2 : 1;
  if (options_.restart) folder_.clear();
  if (auto left = folder_.load(request_, files_)) {
    progress_ = std::move(*left);
    require(progress_.parts.size() == parts && progress_.file <= files_.size(), ErrorCode::kData,
            "{}: the journal is damaged; begin anew with --restart", folder_.path().string());
    if (progress_.complete) return;
    saved_ = progress_.documents > 0;
    if (saved_) {
      spdlog::info("continuing an interrupted preparation behind document {}", progress_.documents);
    }
  } else {
    folder_.clear();
    progress_.parts.resize(parts);
    for (size_t p = 0; p < parts; ++p) fs::create_directories(folder_of(p));
    folder_.save(request_, files_, progress_);
  }
  for (size_t p = 0; p < parts; ++p) {
    ShardWriter::Options shard;
    shard.folder = folder_of(p);
    shard.dtype = dtype_;
    shard.vocab_size = tokenizer_->vocab_size();
    shard.eos_id = *tokenizer_->eos_id();
    shard.vocabulary_sha256 = tokenizer_->hash();
    shard.shard_tokens = options_.shard_tokens;
    writers_.push_back(std::make_unique<ShardWriter>(shard, progress_.parts[p]));
  }
  if (options_.duplicates.kind != Duplicates::kKeep) restore_keys();
}

// The file holds, for each kept document, 16 bytes of digest and 4 of each value of the signature.
void Preparation::restore_keys() {
  const auto values = static_cast<size_t>(options_.duplicates.values());
  const size_t bytes = 16 + 4 * values;
  keys_ = std::make_unique<GrowingFile>(folder_.keys(),
                                        progress_.duplicate_keys * static_cast<int64_t>(bytes));
  keys_->read(bytes, [&](std::span<const std::byte> piece) {
    for (; !piece.empty(); piece = piece.subspan(bytes)) {
      DocumentKey key;
      key.signature.resize(values);
      std::memcpy(key.digest.data(), piece.data(), 16);
      std::memcpy(key.signature.data(), piece.data() + 16, bytes - 16);
      duplicates_.keep(key);
    }
  });
}

void Preparation::take(const PreparedDocument& document, const InputFile& file,
                       InputStatistics& of_file) {
  const int64_t number = progress_.documents++;
  InputStatistics& total = progress_.statistics.total;
  const auto count = [&](int64_t InputStatistics::*what, int64_t n) {
    total.*what += n;
    of_file.*what += n;
  };
  since_checkpoint_ += document.bytes;
  if (document.too_long) return count(&InputStatistics::too_long, 1);
  if (document.ids.empty()) return count(&InputStatistics::empty, 1);
  switch (duplicates_.add(document.key)) {
    case Duplicates::kExact:
      return count(&InputStatistics::exact_duplicates, 1);
    case Duplicates::kNear:
      return count(&InputStatistics::near_duplicates, 1);
    case Duplicates::kKeep:
      break;
  }
  if (keys_ != nullptr) {
    keys_->append(std::as_bytes(std::span(document.key.digest)));
    keys_->append(std::as_bytes(std::span(document.key.signature)));
    ++progress_.duplicate_keys;
  }
  const auto tokens = static_cast<int64_t>(document.ids.size());
  count(&InputStatistics::documents, 1);
  count(&InputStatistics::tokens, tokens + 1);
  count(&InputStatistics::bytes, document.bytes);
  if (tokens > progress_.statistics.longest_tokens) {
    progress_.statistics.longest_tokens = tokens;
    InputFile name = file;
    name.path = file.path.filename();
    progress_.statistics.longest_document = place_of(name, document.line);
  }
  const bool held_out = writers_.size() > 1 &&
                        split_.uniform(static_cast<uint64_t>(number)) < options_.validation_share;
  writers_[held_out ? 1 : 0]->add(document.ids, document.bytes);
}

void Preparation::take(const Chunk& chunk) {
  const InputFile& file = files_[chunk.file];
  std::vector<InputStatistics>& all = progress_.statistics.files;
  for (size_t f = all.size(); f <= chunk.file; ++f) {  // files without documents count too
    all.emplace_back().file = files_[f].path.filename().string();
  }
  for (const PreparedDocument& document : chunk.documents) {
    take(document, file, all[chunk.file]);
  }
  progress_.file = chunk.file;
  progress_.place = chunk.end;
}

void Preparation::checkpoint() {
  for (size_t p = 0; p < writers_.size(); ++p) progress_.parts[p] = writers_[p]->checkpoint();
  if (keys_ != nullptr) keys_->sync();
  folder_.save(request_, files_, progress_);
  for (const auto& writer : writers_) writer->release();
  since_checkpoint_ = 0;
  saved_ = true;
}

// A long document would leave the other cores without work: it is encoded on all of them.
std::vector<int32_t> Preparation::encode(const std::string& text, ThreadPool& pool) {
  if (text.size() < kLongDocument) return tokenizer_->encode(text);
  const std::lock_guard one_at_a_time(pool_mutex_);
  return tokenizer_->encode_parallel(text, pool);
}

void Preparation::write_documents() {
  ThreadPool pool(options_.threads);
  DocumentPipeline::Options pipe;
  pipe.threads = options_.threads;
  pipe.memory = options_.memory;
  pipe.max_bytes = options_.max_document;
  pipe.skip_long = options_.skip_long;
  pipe.first_file = progress_.file;
  pipe.first_place = progress_.place;
  DocumentPipeline pipeline(files_, pipe, [&](const InputFile& file, Chunk& chunk) {
    for (Record& record : chunk.records) {
      PreparedDocument& out = chunk.documents.emplace_back();
      out.line = record.line;
      out.too_long = record.too_long;
      if (record.too_long) continue;
      const std::string text = text_of(std::exchange(record, {}), file, options_.text_key);
      out.bytes = static_cast<int64_t>(text.size());
      out.ids = encode(text, pool);
      out.key = hasher_.key(text);
    }
  });
  int64_t all = 0, before = 0;
  for (size_t f = 0; f < files_.size(); ++f) {
    all += files_[f].bytes;
    if (f < progress_.file) before += files_[f].bytes;
  }
  Progress bar("tokens", all);
  while (const std::unique_ptr<Chunk> chunk = pipeline.next()) {
    for (size_t f = progress_.file; f < chunk->file; ++f) before += files_[f].bytes;
    take(*chunk);
    bar.update(before + chunk->consumed);
    if (since_checkpoint_ >= options_.checkpoint_bytes) checkpoint();
  }
}

PreparedPart Preparation::part_of(size_t part) const {
  PreparedPart out;
  out.folder = options_.output / name_of(part);
  out.shards = progress_.parts[part].shards;
  for (const ShardInfo& shard : out.shards) {
    out.total.tokens += shard.tokens;
    out.total.documents += shard.documents;
    out.total.source_bytes += shard.source_bytes;
  }
  return out;
}

Node Preparation::params_of(size_t part) const {
  const PreparedPart done = part_of(part);
  Node node = Node::map();
  node.set("format", "ashlar-tokens-1");
  node.set("dtype", dtype_ == DType::kU16 ? "uint16" : "uint32");
  node.set("vocab_size", tokenizer_->vocab_size());
  node.set("vocabulary_sha256", tokenizer_->hash());
  node.set("eos_id", int64_t{*tokenizer_->eos_id()});
  node.set("tokens", done.total.tokens);
  node.set("documents", done.total.documents);
  node.set("source_bytes", done.total.source_bytes);
  Node inputs = Node::list();
  for (const InputFile& input : files_) inputs.push(input.path.filename().string());
  node.set("inputs", std::move(inputs));
  if (const std::string name = name_of(part); !name.empty()) {
    node.set("part", name);
    node.set("validation_share", options_.validation_share);
    node.set("seed", std::to_string(options_.seed));  // 64 bits: more than JSON readers keep
  }
  Node shards = Node::list();
  for (const ShardInfo& shard : done.shards) shards.push(to_node(shard));
  node.set("shards", std::move(shards));
  node.set("request", request_);
  node.set("preparation", to_node(progress_.statistics));  // of all parts together
  return node;
}

void Preparation::finish() {
  for (size_t p = 0; p < writers_.size(); ++p) {
    progress_.parts[p] = {writers_[p]->finish(), {}};
    if (progress_.parts[p].shards.empty()) {
      folder_.discard();
      fail(ErrorCode::kRequest, "{}",
           writers_.size() == 1 ? std::string("the input holds no text")
                                : "no document fell into " + name_of(p) +
                                      ": change the validation share or the seed");
    }
  }
  for (size_t p = 0; p < writers_.size(); ++p) {
    write_file_atomically(folder_of(p) / "data_params.json", write_json(params_of(p), 2) + "\n");
    write_file_atomically(folder_of(p) / "tokenizer.json", tokenizer_->json());
  }
  progress_.complete = true;
  folder_.save(request_, files_, progress_);
}

PrepareResult Preparation::run() {
  begin();
  PrepareResult result;
  result.continued_from = progress_.documents;
  if (!progress_.complete) {
    try {
      write_documents();
    } catch (const Error&) {
      if (saved_) {
        spdlog::info("{} keeps what was done: the same command continues there",
                     folder_.path().string());
      } else {
        folder_.discard();
      }
      throw;
    }
    finish();
  }
  folder_.publish();
  result.statistics = progress_.statistics;
  result.vocabulary_sha256 = tokenizer_->hash();
  result.dtype = dtype_;
  for (size_t p = 0; p < progress_.parts.size(); ++p) result.parts.push_back(part_of(p));
  return result;
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options) {
#ifdef __GLIBC__
  // Otherwise the allocator keeps what large documents took for each thread, which can double the
  // memory. For the rest of the process; that is all a preparation's process does.
  mallopt(M_MMAP_THRESHOLD, 512 << 10);
#endif
  return Preparation(options).run();
}

}  // namespace ashlar

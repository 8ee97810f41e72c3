#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/threads.h"
#include "engine/cache/block_kv.h"
#include "engine/cache/prefix_index.h"
#include "engine/cache/sequence_cache.h"
#include "engine/model/stack_runner.h"
#include "engine/model/weights.h"
#include "package/format/model_data.h"

namespace ashlar {

struct EngineOptions {
  int threads = 0;  ///< 0: the cores of this process
  ActivationKind activation = ActivationKind::kF32;
  int64_t memory_budget = 0;  ///< bytes for weights and caches together; 0: unlimited
  /// Where they lie, and with them those of other engines, in one budget; null: the engine's own.
  std::shared_ptr<MemoryProvider> memory = {};
  int64_t chunk_tokens =
      512;  ///< longest piece of a prompt one step processes; never changes results
  int64_t prefix_bytes = 0;    ///< of pages kept for texts that begin alike; 0: none
  BackupOptions backups = {};  ///< where copies lie of pages that a policy recalls
};

/// The block that a Block Transformer's token decoder is in.
struct LocalBlock {
  LocalBlock(std::span<const KvGroup> groups, int64_t capacity) : kv(groups, capacity) {}
  int64_t bytes() const { return kv.bytes() + static_cast<int64_t>(4 * context.size()); }

  BlockKv kv;
  std::vector<float> context;  ///< summation: [L_B, d_local], added to the block's rows
};

/// All that a text being decoded has come to, apart from where it lies.
struct SequenceImage {
  int64_t length = 0;
  bool marker = false;
  CacheImage cache;
  std::vector<float> next_logits;
  std::vector<int32_t> pending;
  std::optional<BlockImage> block;   ///< the block under way
  std::vector<float> block_context;  ///< LocalBlock::context

  bool operator==(const SequenceImage&) const = default;
};

/// The state of one text being decoded: its caches and, for a Block Transformer, the block under
/// way.
class Sequence {
 public:
  /// Tokens fed so far.
  int64_t length() const { return length_; }
  SequenceCache& cache() { return *cache_; }
  const SequenceCache& cache() const { return *cache_; }
  /// Tokens at its beginning whose pages came from earlier texts; the marker is not counted.
  int64_t shared_tokens() const { return shared_tokens_; }
  /// Bytes resident in its caches, the local one of a Block Transformer included.
  int64_t kv_bytes() const;
  /// Bytes of the backup of a policy that recalls pages, which kv_bytes leaves out.
  int64_t backup_bytes() const { return cache_->backup_bytes(); }

 private:
  friend class Engine;
  explicit Sequence(std::unique_ptr<SequenceCache> cache) : cache_(std::move(cache)) {}

  std::unique_ptr<SequenceCache> cache_;
  std::optional<PrefixChain> chain_;  // of a text that shares: all tokens fed
  int64_t shared_tokens_ = 0;
  int64_t published_ = 0;  // its pages that need not be published again
  int64_t length_ = 0;
  bool marker_ = false;             // the start marker is still to be fed
  bool acted_ = false;              // its policy, or would have if there were one
  std::vector<float> next_logits_;  // after the last token, [vocab]
  // Block Transformer only.
  std::vector<int32_t> pending_;       // tokens of the block under way, fewer than L_B
  std::unique_ptr<LocalBlock> local_;  // the block under way
};

/// What one sequence does in a step.
struct StepItem {
  Sequence* sequence = nullptr;
  std::span<const int32_t> tokens;
  /// The tokens end a prompt or continue a text: the policy acts when they are in. False while more
  /// of the same prompt follows.
  bool acts = true;
  /// If set, receives the logits after every token, [tokens, vocab].
  float* all_logits = nullptr;
  /// Where `acts` is false: tokens of the same prompt that later feeds will bring. Policies that
  /// look at the last query rows of a prompt need to know where it ends; with 0, each feed's last
  /// rows are taken for the prompt's, and those of the feed before count on where they adjoin.
  int64_t follow = 0;
};

/// What became of memory that was asked back.
struct GivenBack {
  int64_t now = 0;    ///< bytes the provider has again
  int64_t later = 0;  ///< of chunks retired by this or an earlier call that texts still use
};

/// A model ready to decode: packed weights, threads, memory. Results never depend on how sequences
/// are batched, how prompts are cut, or on the number of threads (the arithmetic contract).
class Engine {
 public:
  Engine(const ModelData& model, const EngineOptions& options);
  ~Engine();

  const ModelSpec& spec() const { return spec_; }
  std::span<const KvGroup> groups() const { return groups_; }
  ThreadPool& pool() { return *pool_; }
  int64_t weight_bytes() const { return weights_->bytes(); }
  const MemoryProvider& memory() const { return *memory_; }
  const BackupStore& backups() const { return arena_->backups(); }

  /// A new text; `policy` may be null. The first `feed` puts the start marker in front: one start
  /// token for a decoder (unless `marker` is false), a block of them for a Block Transformer
  /// (always).
  std::unique_ptr<Sequence> start(const CacheOptions& cache, std::shared_ptr<const Policy> policy,
                                  bool marker = true);

  /// A second text that begins like `sequence` and goes its own way from here; they share pages
  /// until one of them writes.
  std::unique_ptr<Sequence> fork(const Sequence& sequence) const;

  /// Whether a prompt read under one policy leaves the lanes and scores that the other wants. Null:
  /// no policy.
  static bool reads_alike(const Policy* one, const Policy* other);
  /// A second text that has read the same prompt under `policy`, which acts now: bit for bit what
  /// reading it under `policy` gives. All of `sequence` was fed with StepItem::acts false, under a
  /// policy that reads alike; under one at all if `policy` is one, since without any rows are
  /// encoded before a policy could drop them. Throws Error(kRequest) naming what is not so,
  /// Error(kResource) without room.
  std::unique_ptr<Sequence> fork(const Sequence& sequence, std::shared_ptr<const Policy> policy);

  /// Lets a text that has not begun take pages from earlier ones of the same tenant that begin
  /// alike, and leave its own to later ones. Bits do not change, only work. Does nothing where
  /// EngineOptions::prefix_bytes is 0, a policy keeps scores or recalls pages, under ZipCache, or
  /// pieces of a prompt are shorter than a block.
  void share(Sequence& sequence, const std::string& tenant);
  /// Whether pages are kept at all.
  bool keeps_beginnings() const { return prefixes_ != nullptr; }
  /// Of pages that are kept for texts to come.
  int64_t shared_bytes() const { return prefixes_ == nullptr ? 0 : prefixes_->bytes(); }
  /// Of the pages of all caches, shared ones once.
  int64_t cache_page_bytes() const { return arena_->page_bytes_in_use(); }

  /// Gives `bytes` (> 0) of the caches' memory back to the provider, or all there is, in chunks:
  /// those with the fewest bytes of pages are retired (Arena::retire_bytes), and pages that are
  /// only kept for texts to come are dropped until they are free. Chunks that texts under way have
  /// pages in follow when these texts end or are swapped out. No text changes by a bit. Between
  /// feeds.
  GivenBack give_back(int64_t bytes);

  SequenceImage image(const Sequence& sequence) const;
  /// The text that `image` was taken of, with the same cache options and policy. Throws
  /// Error(kData) naming `what` if the image cannot be of this model and cache, Error(kResource)
  /// without room.
  std::unique_ptr<Sequence> resume(const SequenceImage& image, const CacheOptions& cache,
                                   std::shared_ptr<const Policy> policy, const std::string& what);

  /// Feeds tokens of several sequences, cutting long prompts. Afterwards `logits(sequence)`
  /// predicts the next token. Throws Error(kRequest) for tokens outside the vocabulary or a text
  /// that would exceed the context length or a cache's limit, Error(kResource) if the memory budget
  /// has no room for all of the tokens. Nothing has been fed then.
  void feed(std::span<const StepItem> items);
  /// Logits after the last token fed, or after the start marker, [vocab].
  std::span<const float> logits(const Sequence& sequence) const { return sequence.next_logits_; }

  /// Lets `observer` see what attention computes until it is replaced; null: nobody. The block
  /// encoder's attention is not shown.
  void set_observer(AttentionObserver* observer) { observer_ = observer; }

 private:
  // A StepItem cut to what one step takes; the start marker, if any, is a leading token.
  struct Piece {
    Sequence* sequence;
    std::vector<int32_t> tokens;
    bool acts;
    bool last;          // the next token's logits are wanted
    float* all_logits;  // rows of the tokens behind the marker
    int64_t marker;     // leading tokens that are the marker's (decoder only)
  };
  struct BlockJob;

  std::unique_ptr<Sequence> copy_of(const Sequence& sequence,
                                    std::unique_ptr<SequenceCache> cache) const;
  void check(const StepItem& item) const;
  void admit(std::span<const StepItem> items);
  void prepare(std::span<const StepItem> items) const;
  std::vector<size_t> begin_feed(std::span<const StepItem> items);
  size_t take_shared(const StepItem& item);
  void give_back_shared(Sequence& sequence, int64_t tokens);
  void set_prompt_end(const StepItem& item, size_t taken) const;
  void leave_shared(const Piece& piece);
  void check_image(const SequenceImage& image, const std::string& what) const;
  void step_decoder(std::span<const Piece> pieces);
  void step_block(std::span<const Piece> pieces);
  StackModel stack_model(size_t stack) const;
  void embed_blocks(std::span<const int32_t> tokens, int64_t rows, float* x);
  void look_up(std::span<const int32_t> tokens, float* out) const;
  const float* encode_blocks(std::span<const int32_t> tokens, int64_t rows);
  std::vector<float> run_global(std::span<const Piece> pieces, std::vector<int64_t>& first_block);
  void settle(SequenceCache& cache);
  std::vector<BlockJob> plan_local(std::span<const Piece> pieces,
                                   std::span<const int64_t> first_block);
  void run_local(std::vector<BlockJob>& jobs, std::span<const float> states);
  std::vector<float> expand(const std::vector<BlockJob>& jobs, std::span<const float> states);
  int64_t fill_local(std::vector<BlockJob>& jobs, std::span<const float> contexts,
                     std::vector<StackItem>& items);
  void head_rows(const float* x, std::span<const int64_t> rows, std::span<float* const> outs);
  CloseGroup closer(std::span<SequenceCache* const> caches) const;

  ModelSpec spec_;
  std::vector<KvGroup> groups_;
  std::vector<KvGroup> encoder_groups_;               // of the block encoder's layers
  std::vector<std::vector<int64_t>> group_of_layer_;  // per stack
  std::vector<int64_t> cross_group_of_layer_;         // of the token decoder; empty without
  EngineOptions options_;
  int32_t start_token_;
  std::shared_ptr<MemoryProvider> memory_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<PrefixIndex> prefixes_;
  std::vector<std::unique_ptr<BlockKv>> encoder_kv_;  // one per block of a step
  Workspace work_;
  std::vector<float> stream_, head_in_, head_out_;
  AttentionObserver* observer_ = nullptr;
};

}  // namespace ashlar

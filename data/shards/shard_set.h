#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ashlar {

struct ShardOptions {
  /// Id of EOS: needed where the shards do not say it (llm.c), refused where they say another.
  std::optional<int32_t> eos_id = std::nullopt;
  /// Ids must be below this where the shards do not say their vocabulary.
  std::optional<int64_t> vocab_size = std::nullopt;
};

/// A folder of token shards, opened for reading: every `*.h5`, or every `*.bin` of llm.c, sorted by
/// name, as one stream of tokens; or one such file.
///
/// Contiguous datasets are read through a file mapping (one random window costs well under a
/// microsecond), others through HDF5. Reads both layouts of Cerebras: rank-1 token streams, and
/// (n, 3, L) samples of input_ids, attention_mask, labels, whose windows are fixed. Safe for any
/// number of threads.
class ShardSet {
 public:
  /// Throws Error(kRequest) for a folder without shards and Error(kData) for shards that are
  /// damaged or do not belong together (other vocabulary, EOS or layout).
  explicit ShardSet(const std::filesystem::path& folder, const ShardOptions& options = {});
  ~ShardSet();
  ShardSet(const ShardSet&) = delete;
  ShardSet& operator=(const ShardSet&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  /// Tokens of the stream, EOS included; 0 in the samples layout.
  int64_t total_tokens() const { return total_tokens_; }
  /// UTF-8 bytes the tokens came from; absent when a shard does not say.
  std::optional<int64_t> source_bytes() const { return source_bytes_; }
  /// source_bytes() / total_tokens(), where both are known and positive.
  std::optional<double> bytes_per_token() const;
  std::optional<int64_t> documents() const { return documents_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int64_t> vocab_size() const { return vocab_size_; }
  /// Tokenizer::hash() of the vocabulary; "" when the shards do not say.
  const std::string& vocabulary_sha256() const { return vocabulary_sha256_; }

  /// Tokens [first, first + out.size()) of the stream. Throws Error(kData) for a token outside the
  /// vocabulary that the shards declare.
  void read(int64_t first, std::span<int32_t> out) const;
  int32_t token(int64_t index) const;
  /// Loss weights of the same tokens as targets: dataset `loss_mask`, or 1 where a shard has none.
  void read_loss_weights(int64_t first, std::span<float> out) const;

  /// First token of every document of the stream, ascending: dataset `document_offsets` of a shard,
  /// or what stands behind its EOS tokens. A shard begins a document. Throws Error(kData) for
  /// offsets that are out of order or range.
  std::vector<int64_t> document_starts() const;

  /// Samples of the (n, 3, L) layout; 0 for a stream.
  int64_t samples() const { return samples_; }
  int64_t sample_length() const { return sample_length_; }
  /// Row `index`: inputs, targets and loss weights, sample_length() each.
  void read_sample(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets,
                   std::span<float> weights) const;

 private:
  struct Shard;
  void open(const std::filesystem::path& file);
  void open_hdf5(Shard& shard);
  void open_llmc(Shard& shard);
  const Shard& shard_of(int64_t position, int64_t& within) const;

  std::filesystem::path folder_;
  ShardOptions options_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<int64_t> starts_;  ///< first token (or sample) of each shard, and the end
  int64_t total_tokens_ = 0;
  int64_t samples_ = 0;
  int64_t sample_length_ = 0;
  std::optional<int64_t> source_bytes_, documents_, vocab_size_;
  std::optional<int64_t> most_tokens_;  ///< ids must be below it
  std::optional<int32_t> eos_id_;
  std::string vocabulary_sha256_;
};

}  // namespace ashlar

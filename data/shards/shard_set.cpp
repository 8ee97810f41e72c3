#include "data/shards/shard_set.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "data/shards/column.h"
#include "data/shards/llmc_shard.h"

namespace ashlar {
namespace fs = std::filesystem;

struct ShardSet::Shard {
  fs::path path;
  std::unique_ptr<ShardFile> hdf5;  // one of the two
  std::unique_ptr<LlmcShard> llmc;
  std::optional<Column> data, loss_mask;
  int64_t rows() const { return data->info().shape[0]; }
};

namespace {

/// `value` is what a further shard says; all shards must agree.
template <typename T>
void agree(bool first, T& known, const T& value, const fs::path& file, const char* what) {
  require(first || known == value, ErrorCode::kData, "{}: {} differs from the other shards'",
          file.string(), what);
  known = value;
}

std::optional<int64_t> attribute(const H5File& file, const char* name) {
  if (!file.has_attribute("", name)) return std::nullopt;
  return file.integer_attribute("", name);
}

/// Sums what every shard must say to be known at all.
void accumulate(bool first, std::optional<int64_t>& sum, const std::optional<int64_t>& value,
                const fs::path& file, const char* what) {
  require(!value || *value >= 0, ErrorCode::kData, "{}: attribute '{}' is negative", file.string(),
          what);
  if (first) {
    sum = value;
  } else if (sum && value) {
    sum = checked_add(*sum, *value, what);
  } else {
    sum.reset();
  }
}

}  // namespace

ShardSet::ShardSet(const fs::path& folder, const ShardOptions& options)
    : folder_(folder), options_(options) {
  std::error_code error;
  std::vector<fs::path> files, of_llmc;
  if (fs::is_regular_file(folder, error)) {
    files.push_back(folder);
  } else {
    require(fs::is_directory(folder, error), ErrorCode::kRequest, "{}: no such folder of shards",
            folder.string());
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (!entry.is_regular_file()) continue;
      if (entry.path().extension() == ".h5") files.push_back(entry.path());
      if (entry.path().extension() == ".bin") of_llmc.push_back(entry.path());
    }
    require(files.empty() || of_llmc.empty(), ErrorCode::kRequest,
            "{}: holds both *.h5 and *.bin shards", folder.string());
    files.insert(files.end(), of_llmc.begin(), of_llmc.end());
    require(!files.empty(), ErrorCode::kRequest, "{}: holds no *.h5 shards, nor *.bin of llm.c",
            folder.string());
  }
  std::sort(files.begin(), files.end());
  starts_.push_back(0);
  for (const fs::path& file : files) open(file);
  (samples_ > 0 ? samples_ : total_tokens_) = starts_.back();
  require(starts_.back() > 0, ErrorCode::kData, "{}: the shards hold no tokens", folder.string());
  require(!eos_id_ || !options_.eos_id || eos_id_ == options_.eos_id, ErrorCode::kRequest,
          "{}: eos_id {} was asked for, but the shards say {}", folder.string(),
          options_.eos_id.value_or(0), eos_id_.value_or(0));
  if (!eos_id_) eos_id_ = options_.eos_id;
  most_tokens_ = vocab_size_ ? vocab_size_ : options_.vocab_size;
}

ShardSet::~ShardSet() = default;

std::optional<double> ShardSet::bytes_per_token() const {
  if (source_bytes_.value_or(0) <= 0 || total_tokens_ <= 0) return std::nullopt;
  return static_cast<double>(*source_bytes_) / static_cast<double>(total_tokens_);
}

void ShardSet::open(const fs::path& path) {
  auto shard = std::make_unique<Shard>();
  shard->path = path;
  if (path.extension() == ".bin") {
    open_llmc(*shard);
  } else {
    open_hdf5(*shard);
  }
  starts_.push_back(checked_add(starts_.back(), shard->rows(), "tokens"));
  shards_.push_back(std::move(shard));
}

void ShardSet::open_llmc(Shard& shard) {
  shard.llmc = std::make_unique<LlmcShard>(shard.path);
  const LlmcShard& file = *shard.llmc;
  shard.data.emplace(file.mapping, file.dtype, LlmcShard::kHeaderBytes, file.tokens);
}

void ShardSet::open_hdf5(Shard& shard) {
  const fs::path& path = shard.path;
  shard.hdf5 = std::make_unique<ShardFile>(path);
  shard.data.emplace(*shard.hdf5, "data");
  const H5File& file = shard.hdf5->hdf5;
  const bool first = shards_.empty();
  const std::vector<int64_t>& shape = shard.data->info().shape;
  const bool is_stream = shape.size() == 1;
  require(is_stream || (shape.size() == 3 && shape[1] == 3 && shape[2] > 0), ErrorCode::kData,
          "{}: dataset 'data': expected shape (tokens) or (samples, 3, length)", path.string());
  agree(first, sample_length_, is_stream ? 0 : shape[2], path, "layout");
  if (!is_stream) samples_ = 1;  // known to be samples; counted at the end
  if (file.has_dataset("loss_mask")) {
    shard.loss_mask.emplace(*shard.hdf5, "loss_mask");
    require(is_stream && shard.loss_mask->info().shape == shape, ErrorCode::kData,
            "{}: dataset 'loss_mask': shape differs from 'data'", path.string());
  }

  const std::optional<int64_t> eos = attribute(file, "eos_id");
  std::optional<int32_t> eos_id;
  if (eos) eos_id = checked_cast<int32_t>(*eos, "eos_id");
  agree(first, eos_id_, eos_id, path, "eos_id");
  agree(first, vocab_size_, attribute(file, "vocab_size"), path, "vocab_size");
  std::string hash;
  if (file.has_attribute("", "vocabulary_sha256")) {
    hash = file.text_attribute("", "vocabulary_sha256");
  }
  agree(first, vocabulary_sha256_, hash, path, "vocabulary");
  accumulate(first, source_bytes_, attribute(file, "source_bytes"), path, "source_bytes");
  accumulate(first, documents_, attribute(file, "documents"), path, "documents");
}

const ShardSet::Shard& ShardSet::shard_of(int64_t position, int64_t& within) const {
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), position);
  const auto index = static_cast<size_t>(after - starts_.begin()) - 1;
  within = position - starts_[index];
  return *shards_[index];
}

void ShardSet::read(int64_t first, std::span<int32_t> out) const {
  ASHLAR_CHECK(first >= 0 && first + static_cast<int64_t>(out.size()) <= total_tokens_);
  for (size_t done = 0; done < out.size();) {
    int64_t within = 0;
    const Shard& shard = shard_of(first + static_cast<int64_t>(done), within);
    const int64_t count =
        std::min<int64_t>(static_cast<int64_t>(out.size() - done), shard.rows() - within);
    const auto piece = out.subspan(done, static_cast<size_t>(count));
    shard.data->read(within, count, piece);
    for (int32_t token : piece) {
      require(token >= 0 && (!most_tokens_ || token < *most_tokens_), ErrorCode::kData,
              "{}: token {} is outside the vocabulary", shard.path.string(), token);
    }
    done += static_cast<size_t>(count);
  }
}

int32_t ShardSet::token(int64_t index) const {
  int32_t value = 0;
  read(index, std::span(&value, 1));
  return value;
}

void ShardSet::read_loss_weights(int64_t first, std::span<float> out) const {
  ASHLAR_CHECK(first >= 0 && first + static_cast<int64_t>(out.size()) <= total_tokens_);
  std::vector<int32_t> values;
  for (size_t done = 0; done < out.size();) {
    int64_t within = 0;
    const Shard& shard = shard_of(first + static_cast<int64_t>(done), within);
    const int64_t count =
        std::min<int64_t>(static_cast<int64_t>(out.size() - done), shard.rows() - within);
    values.assign(static_cast<size_t>(count), 1);
    if (shard.loss_mask) shard.loss_mask->read(within, count, values);
    for (int32_t value : values) out[done++] = static_cast<float>(value);
  }
}

void ShardSet::read_sample(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets,
                           std::span<float> weights) const {
  ASHLAR_CHECK(index >= 0 && index < samples_);
  const auto length = static_cast<size_t>(sample_length_);
  ASHLAR_CHECK(tokens.size() == length && targets.size() == length && weights.size() == length);
  int64_t within = 0;
  const Shard& shard = shard_of(index, within);
  std::vector<int32_t> row(3 * length);  // input_ids, attention_mask, labels
  shard.data->read(within, 1, row);
  for (size_t i = 0; i < length; ++i) {
    tokens[i] = row[i];
    weights[i] = static_cast<float>(row[length + i]);
    targets[i] = row[2 * length + i];
    require(tokens[i] >= 0 && targets[i] >= 0 &&
                (!most_tokens_ || (tokens[i] < *most_tokens_ && targets[i] < *most_tokens_)),
            ErrorCode::kData, "{}: sample {} holds a token outside the vocabulary",
            shard.path.string(), within);
  }
}

std::vector<int64_t> ShardSet::document_starts() const {
  ASHLAR_CHECK(samples_ == 0 && eos_id_.has_value());
  std::vector<int64_t> out;
  std::vector<int32_t> piece;
  for (size_t s = 0; s < shards_.size(); ++s) {
    const int64_t base = starts_[s], count = starts_[s + 1] - base;
    const Shard& shard = *shards_[s];
    if (shard.hdf5 != nullptr && shard.hdf5->hdf5.has_dataset("document_offsets")) {
      int64_t least = -1;  // the first may be 0, each later one is larger
      const std::lock_guard lock(shard.hdf5->mutex);
      for (int64_t offset : shard.hdf5->hdf5.read<int64_t>("document_offsets")) {
        require(offset > least && offset < count, ErrorCode::kData,
                "{}: dataset 'document_offsets': {} is out of order or range",
                shards_[s]->path.string(), offset);
        least = offset;
        out.push_back(base + offset);
      }
      continue;
    }
    bool begins = true;
    for (int64_t at = 0; at < count; at += static_cast<int64_t>(piece.size())) {
      piece.resize(static_cast<size_t>(std::min<int64_t>(count - at, 1 << 20)));
      read(base + at, piece);
      for (size_t i = 0; i < piece.size(); ++i) {
        if (begins) out.push_back(base + at + static_cast<int64_t>(i));
        begins = piece[i] == *eos_id_;
      }
    }
  }
  return out;
}

}  // namespace ashlar

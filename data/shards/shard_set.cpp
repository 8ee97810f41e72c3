#include "data/shards/shard_set.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "data/shards/column.h"

namespace ashlar {
namespace fs = std::filesystem;

struct ShardSet::Shard {
  ShardFile file;
  Column data;
  std::optional<Column> loss_mask;

  explicit Shard(const fs::path& path) : file(path), data(file, "data") {
    if (file.hdf5.has_dataset("loss_mask")) loss_mask.emplace(file, "loss_mask");
  }
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

ShardSet::ShardSet(const fs::path& folder) : folder_(folder) {
  std::error_code error;
  require(fs::is_directory(folder, error), ErrorCode::kRequest, "{}: no such folder of shards",
          folder.string());
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".h5" && entry.is_regular_file()) files.push_back(entry.path());
  }
  require(!files.empty(), ErrorCode::kRequest, "{}: holds no *.h5 shards", folder.string());
  std::sort(files.begin(), files.end());
  starts_.push_back(0);
  for (const fs::path& file : files) open(file);
  (samples_ > 0 ? samples_ : total_tokens_) = starts_.back();
  require(starts_.back() > 0, ErrorCode::kData, "{}: the shards hold no tokens", folder.string());
}

ShardSet::~ShardSet() = default;

std::optional<double> ShardSet::bytes_per_token() const {
  if (source_bytes_.value_or(0) <= 0 || total_tokens_ <= 0) return std::nullopt;
  return static_cast<double>(*source_bytes_) / static_cast<double>(total_tokens_);
}

void ShardSet::open(const fs::path& path) {
  auto shard = std::make_unique<Shard>(path);
  const bool first = shards_.empty();
  const std::vector<int64_t>& shape = shard->data.info().shape;
  const bool is_stream = shape.size() == 1;
  require(is_stream || (shape.size() == 3 && shape[1] == 3 && shape[2] > 0), ErrorCode::kData,
          "{}: dataset 'data': expected shape (tokens) or (samples, 3, length)", path.string());
  agree(first, sample_length_, is_stream ? 0 : shape[2], path, "layout");
  if (!is_stream) samples_ = 1;  // known to be samples; counted at the end
  starts_.push_back(checked_add(starts_.back(), shape[0], "tokens"));
  if (shard->loss_mask) {
    require(is_stream && shard->loss_mask->info().shape == shape, ErrorCode::kData,
            "{}: dataset 'loss_mask': shape differs from 'data'", path.string());
  }

  const H5File& file = shard->file.hdf5;
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
  shards_.push_back(std::move(shard));
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
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(out.size() - done),
                                            shard.data.info().shape[0] - within);
    const auto piece = out.subspan(done, static_cast<size_t>(count));
    shard.data.read(within, count, piece);
    for (int32_t token : piece) {
      require(token >= 0 && (!vocab_size_ || token < *vocab_size_), ErrorCode::kData,
              "{}: token {} is outside the vocabulary", shard.file.hdf5.path().string(), token);
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
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(out.size() - done),
                                            shard.data.info().shape[0] - within);
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
  shard.data.read(within, 1, row);
  for (size_t i = 0; i < length; ++i) {
    tokens[i] = row[i];
    weights[i] = static_cast<float>(row[length + i]);
    targets[i] = row[2 * length + i];
    require(tokens[i] >= 0 && targets[i] >= 0 &&
                (!vocab_size_ || (tokens[i] < *vocab_size_ && targets[i] < *vocab_size_)),
            ErrorCode::kData, "{}: sample {} holds a token outside the vocabulary",
            shard.file.hdf5.path().string(), within);
  }
}

std::vector<int64_t> ShardSet::document_starts() const {
  ASHLAR_CHECK(samples_ == 0 && eos_id_.has_value());
  std::vector<int64_t> out;
  std::vector<int32_t> piece;
  for (size_t s = 0; s < shards_.size(); ++s) {
    const int64_t base = starts_[s], count = starts_[s + 1] - base;
    const H5File& file = shards_[s]->file.hdf5;
    if (file.has_dataset("document_offsets")) {
      int64_t least = -1;  // the first may be 0, each later one is larger
      const std::lock_guard lock(shards_[s]->file.mutex);
      for (int64_t offset : file.read<int64_t>("document_offsets")) {
        require(offset > least && offset < count, ErrorCode::kData,
                "{}: dataset 'document_offsets': {} is out of order or range",
                shards_[s]->file.hdf5.path().string(), offset);
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

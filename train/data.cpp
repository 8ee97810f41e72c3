#include "train/data.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "data/shards/batch_source.h"
#include "data/shards/mixture.h"
#include "data/shards/task_source.h"
#include "train/chat_data.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

class ShardData final : public TrainingData {
 public:
  ShardData(const fs::path& folder, const TrainConfig& config, uint64_t seed,
            BatchSource::Order order)
      : shards_(folder, {config.data.eos_id, config.model.vocab_size}),
        batches_(shards_, config.context, seed, order,
                 order == BatchSource::Order::kShuffled ? padding_of(config) : PaddingOptions{}) {
    require(shards_.eos_id().has_value(), ErrorCode::kRequest,
            "{}: the shards name no EOS token; say it with data.eos_id", folder.string());
  }

  const SampleSource& samples() const override { return batches_; }
  std::string name() const override { return shards_.folder().string(); }
  std::string size() const override { return fmt::format("{} tokens", shards_.total_tokens()); }
  int64_t eos_id() const override { return *shards_.eos_id(); }
  std::optional<int64_t> vocab_size() const override { return shards_.vocab_size(); }
  std::string vocabulary() const override { return shards_.vocabulary_sha256(); }
  fs::path tokenizer() const override {
    for (const fs::path& folder : {shards_.folder(), shards_.folder().parent_path()}) {
      if (fs::exists(folder / "tokenizer.json")) return folder / "tokenizer.json";
    }
    return {};
  }
  std::optional<double> bytes_per_token() const override { return shards_.bytes_per_token(); }

 private:
  ShardSet shards_;
  BatchSource batches_;
};

class TaskData final : public TrainingData {
 public:
  TaskData(const TaskDataConfig& task, const TrainConfig& config, uint64_t seed)
      : task_(task), tokenizer_(task.tokenizer.empty() ? nullptr : load_tokenizer(task.tokenizer)) {
    TaskSourceOptions options;
    options.examples = task.examples;
    options.seed = seed;
    options.marker = !config.model.block.has_value();
    if (tokenizer_ != nullptr) {
      require(tokenizer_->eos_id().has_value(), ErrorCode::kRequest,
              "{}: has no end-of-text token to begin samples with", task.tokenizer.string());
      options.eos = *tokenizer_->eos_id();
    }
    eos_ = options.eos;
    source_ = std::make_unique<TaskSource>(
        make_generator(task.name, task.options, tokenizer_.get()), config.context, options);
  }

  const SampleSource& samples() const override { return *source_; }
  std::string name() const override { return "task " + task_.name; }
  std::string size() const override {
    return task_.examples > 0 ? fmt::format("{} examples", task_.examples) : "endless examples";
  }
  int64_t eos_id() const override { return eos_; }
  std::optional<int64_t> vocab_size() const override { return source_->task().vocab_size(); }
  std::string vocabulary() const override {
    return tokenizer_ != nullptr ? tokenizer_->hash() : std::string();
  }
  fs::path tokenizer() const override { return task_.tokenizer; }
  std::optional<double> bytes_per_token() const override { return std::nullopt; }

 private:
  TaskDataConfig task_;
  std::unique_ptr<Tokenizer> tokenizer_;
  int64_t eos_ = 0;
  std::unique_ptr<TaskSource> source_;
};

class MixtureData final : public TrainingData {
 public:
  MixtureData(std::vector<std::unique_ptr<TrainingData>> parts, const std::vector<double>& weights,
              uint64_t seed)
      : parts_(std::move(parts)), samples_(sources_of(parts_, weights), seed) {
    for (const auto& part : parts_) {
      require(
          part->vocabulary() == parts_[0]->vocabulary() && part->eos_id() == parts_[0]->eos_id(),
          ErrorCode::kRequest, "data.train: {} and {} have different vocabularies",
          parts_[0]->name(), part->name());
    }
  }

  const SampleSource& samples() const override { return samples_; }
  std::string name() const override {
    std::string out;
    for (const auto& part : parts_) out += (out.empty() ? "" : " + ") + part->name();
    return out;
  }
  std::string size() const override { return fmt::format("a mixture of {}", parts_.size()); }
  int64_t eos_id() const override { return parts_[0]->eos_id(); }
  std::optional<int64_t> vocab_size() const override {
    std::optional<int64_t> most;
    for (const auto& part : parts_) most = std::max(most, part->vocab_size());
    return most;
  }
  std::string vocabulary() const override { return parts_[0]->vocabulary(); }
  fs::path tokenizer() const override { return parts_[0]->tokenizer(); }
  std::string tokenizer_json() const override { return parts_[0]->tokenizer_json(); }
  std::string chat_template() const override {
    for (const auto& part : parts_) {
      if (std::string text = part->chat_template(); !text.empty()) return text;
    }
    return {};
  }
  std::optional<double> bytes_per_token() const override { return std::nullopt; }
  std::vector<std::string> plan(int64_t samples) const override {
    std::vector<std::string> lines;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::string of_part = parts_[p]->plan(samples_.samples_of(p, samples)).at(0);
      lines.push_back(fmt::format("{}, {:.1f} % of the mixture", of_part,
                                  100.0 * static_cast<double>(samples_.count(p)) /
                                      static_cast<double>(MixtureSource::kPeriod)));
    }
    return lines;
  }

 private:
  static std::vector<MixtureSource::Part> sources_of(
      const std::vector<std::unique_ptr<TrainingData>>& parts, const std::vector<double>& weights) {
    std::vector<MixtureSource::Part> out;
    for (size_t p = 0; p < parts.size(); ++p) {
      out.push_back({&parts[p]->samples(), weights[p], parts[p]->name()});
    }
    return out;
  }

  std::vector<std::unique_ptr<TrainingData>> parts_;
  MixtureSource samples_;
};

std::unique_ptr<TrainingData> open_corpus(const CorpusConfig& corpus, const TrainConfig& config,
                                          uint64_t seed) {
  if (corpus.task) return std::make_unique<TaskData>(*corpus.task, config, seed);
  if (corpus.chat) return open_chat_data(*corpus.chat, config, seed, true);
  return std::make_unique<ShardData>(corpus.path, config, seed, BatchSource::Order::kShuffled);
}

}  // namespace

std::vector<std::string> TrainingData::plan(int64_t samples) const {
  const int64_t windows = this->samples().windows();
  const std::string epochs =
      windows > int64_t{1} << 60  // of endless examples
          ? ""
          : fmt::format(", {:.2f} epochs of {}",
                        static_cast<double>(samples) / static_cast<double>(windows), windows);
  return {fmt::format("{}: {}; {} samples in this run{}", name(), size(), samples, epochs)};
}

std::string TrainingData::tokenizer_json() const {
  return tokenizer().empty() ? std::string() : read_file(tokenizer());
}

std::unique_ptr<TrainingData> TrainingData::train(const TrainConfig& config) {
  const std::vector<CorpusConfig>& corpora = config.data.train;
  if (corpora.size() == 1) return open_corpus(corpora[0], config, config.seed);
  std::vector<std::unique_ptr<TrainingData>> parts;
  std::vector<double> weights;
  for (const CorpusConfig& corpus : corpora) {
    parts.push_back(open_corpus(corpus, config, MixtureSource::seed_of(config.seed, parts.size())));
    weights.push_back(corpus.weight);
  }
  return std::make_unique<MixtureData>(std::move(parts), weights, config.seed);
}

std::unique_ptr<TrainingData> TrainingData::validation(const TrainConfig& config) {
  if (config.data.validation_task) {
    return std::make_unique<TaskData>(*config.data.validation_task, config, config.seed);
  }
  if (config.data.validation_chat) {
    return open_chat_data(*config.data.validation_chat, config, config.seed, false);
  }
  if (config.data.validation.empty()) return nullptr;
  return std::make_unique<ShardData>(config.data.validation, config, config.seed,
                                     BatchSource::Order::kSequential);
}

}  // namespace ashlar

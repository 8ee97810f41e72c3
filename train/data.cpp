#include "train/data.h"

#include "core/base/error.h"
#include "data/shards/batch_source.h"
#include "data/shards/task_source.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

class ShardData final : public TrainingData {
 public:
  ShardData(const fs::path& folder, const TrainConfig& config, BatchSource::Order order)
      : shards_(folder),
        batches_(shards_, config.context, config.seed, order,
                 order == BatchSource::Order::kShuffled ? padding_of(config) : PaddingOptions{}) {
    require(shards_.eos_id().has_value(), ErrorCode::kRequest, "{}: the shards name no EOS token",
            folder.string());
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
  TaskData(const TaskDataConfig& task, const TrainConfig& config)
      : task_(task), tokenizer_(task.tokenizer.empty() ? nullptr : load_tokenizer(task.tokenizer)) {
    TaskSourceOptions options;
    options.examples = task.examples;
    options.seed = config.seed;
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

}  // namespace

std::unique_ptr<TrainingData> TrainingData::train(const TrainConfig& config) {
  if (config.data.train_task) return std::make_unique<TaskData>(*config.data.train_task, config);
  return std::make_unique<ShardData>(config.data.train, config, BatchSource::Order::kShuffled);
}

std::unique_ptr<TrainingData> TrainingData::validation(const TrainConfig& config) {
  if (config.data.validation_task) {
    return std::make_unique<TaskData>(*config.data.validation_task, config);
  }
  if (config.data.validation.empty()) return nullptr;
  return std::make_unique<ShardData>(config.data.validation, config,
                                     BatchSource::Order::kSequential);
}

}  // namespace ashlar

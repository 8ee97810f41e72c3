#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/shards/sample_source.h"
#include "train/config.h"

namespace ashlar {

/// What a run reads: token shards, a generated task, or a mixture of them.
class TrainingData {
 public:
  /// Samples in the order of training.
  static std::unique_ptr<TrainingData> train(const TrainConfig& config);
  /// Samples of validation, every one once; null when `config` names none.
  static std::unique_ptr<TrainingData> validation(const TrainConfig& config);
  virtual ~TrainingData() = default;

  virtual const SampleSource& samples() const = 0;
  /// Where it comes from, for messages.
  virtual std::string name() const = 0;
  /// "12345 tokens", for the log.
  virtual std::string size() const = 0;
  /// How often a run of `samples` samples goes through it, a line for each part of a mixture.
  virtual std::vector<std::string> plan(int64_t samples) const;
  virtual int64_t eos_id() const = 0;
  /// Absent when the shards do not say.
  virtual std::optional<int64_t> vocab_size() const = 0;
  /// Tokenizer::hash() of the vocabulary; "" for bare ids or when the shards do not say.
  virtual std::string vocabulary() const = 0;
  /// The vocabulary's tokenizer.json; empty without one.
  virtual std::filesystem::path tokenizer() const = 0;
  /// The text of tokenizer.json for the run folder; "" without one.
  virtual std::string tokenizer_json() const;
  /// Jinja text of the chat template the data is written in, for the run folder; "" without one.
  virtual std::string chat_template() const { return {}; }
  /// Bytes of text per token; absent when unknown.
  virtual std::optional<double> bytes_per_token() const = 0;
};

}  // namespace ashlar

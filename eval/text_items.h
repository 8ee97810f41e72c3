#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/tasks/task_files.h"
#include "eval/tasks.h"

namespace ashlar {

/// What all tasks of files share: a name, settings, and texts that are encoded once, when the task
/// is made.
class FileTask : public EvalTask {
 public:
  const std::string& name() const override { return name_; }
  Node settings() const override { return settings_; }
  int64_t size() const override { return static_cast<int64_t>(texts_.size()); }
  std::vector<ScoreText> texts(int64_t item) const override {
    return texts_[static_cast<size_t>(item)];
  }

 protected:
  /// Reads the options that all of them have. `node` is theirs and `file`'s.
  FileTask(std::string name, const std::filesystem::path& file, const TaskModel& model);

  /// Reads `truncate`: refuse (default) or left.
  void read_common(NodeReader& options);
  /// Notes a setting.
  void note(const std::string& key, Node value) { settings_.set(key, std::move(value)); }
  /// Adds an item.
  void add(std::vector<ScoreText> texts) { texts_.push_back(std::move(texts)); }
  /// After the last item: refuses texts that the model cannot read, or cuts their beginning.
  void finish();

  /// The tokens of `context` + " " + `continuation`, of which those of the continuation are scored.
  /// As in lm-evaluation-harness the joined text is encoded, and the context's tokens are as many
  /// as it has alone; white space at its end belongs to the continuation.
  ScoreText continuation(const Continuation& text) const;

  const Tokenizer& tokenizer_;
  bool evicts_ = false;

 private:
  std::string name_;
  Node settings_ = Node::map();
  int64_t context_length_ = 0;
  bool truncate_ = false;
  std::vector<std::vector<ScoreText>> texts_;
};

/// Σ log p of a text's scored tokens, in nats.
double log_likelihood(const TextScore& score);
/// Whether every scored token of `text` was the most likely one.
bool greedy_match(const ScoreText& text, const TextScore& score);

}  // namespace ashlar

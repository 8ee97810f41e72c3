#include "eval/choice.h"

#include <algorithm>

namespace ashlar {
namespace {

enum Value { kSum, kPerByte, kPerToken, kFirstChoice };

class Choice final : public FileTask {
 public:
  using Read = std::vector<Choices> (*)(const std::string& file, const ChoiceForm& form);

  Choice(const std::string& name, const std::string& file, const Node& node, int64_t limit,
         const TaskModel& model, bool hellaswag)
      : FileTask(name, file, model) {
    NodeReader options(node);
    read_common(options);
    ChoiceForm form;
    if (!hellaswag) {
      form = {options.text_or("prefix", ""), options.text_or("delimiter", " ")};
      note("prefix", form.prefix);
      note("delimiter", form.delimiter);
    }
    options.finish();
    for (const Choices& item : hellaswag ? read_hellaswag(file) : read_choices(file, form)) {
      if (limit > 0 && size() >= limit) break;
      add_item(item);
    }
    finish();
  }

  std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const override {
    const Item& known = items_[static_cast<size_t>(item)];
    std::vector<double> sums, per_byte, per_token;
    for (size_t i = 0; i < scores.size(); ++i) {
      sums.push_back(log_likelihood(scores[i]));
      per_byte.push_back(sums[i] / static_cast<double>(known.bytes[i]));
      per_token.push_back(sums[i] / static_cast<double>(scores[i].tokens.size()));
    }
    const auto right = [&](const std::vector<double>& values) {
      const auto best = std::max_element(values.begin(), values.end()) - values.begin();
      return best == known.gold ? 1.0 : 0.0;
    };
    std::vector<double> out = {right(sums), right(per_byte), right(per_token)};
    out.insert(out.end(), sums.begin(), sums.end());
    out.resize(kFirstChoice + most_choices_, 0);
    return out;
  }

  std::vector<Metric> metrics() const override {
    return {{name(), "accuracy", 0, size(), kSum},
            {name(), "accuracy_norm", 0, size(), kPerByte},
            {name(), "accuracy_token", 0, size(), kPerToken}};
  }

 private:
  struct Item {
    int64_t gold = 0;
    std::vector<size_t> bytes;  ///< of each choice, without the space before it
  };

  void add_item(const Choices& item) {
    std::vector<ScoreText> texts;
    Item known{item.gold, {}};
    for (const Continuation& option : item.options) {
      texts.push_back(continuation(option));
      known.bytes.push_back(option.continuation.size());
    }
    most_choices_ = std::max(most_choices_, texts.size());
    items_.push_back(std::move(known));
    add(std::move(texts));
  }

  std::vector<Item> items_;
  size_t most_choices_ = 0;
};

}  // namespace

std::unique_ptr<EvalTask> make_choice(const std::string& name, const std::string& file,
                                      const Node& options, int64_t limit, const TaskModel& model) {
  return std::make_unique<Choice>(name, file, options, limit, model, false);
}

std::unique_ptr<EvalTask> make_hellaswag(const std::string& name, const std::string& file,
                                         const Node& options, int64_t limit,
                                         const TaskModel& model) {
  return std::make_unique<Choice>(name, file, options, limit, model, true);
}

}  // namespace ashlar

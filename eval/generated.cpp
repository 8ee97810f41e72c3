#include "eval/generated.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/tasks/generator.h"
#include "data/tasks/mqar.h"

namespace ashlar {
namespace {

constexpr int64_t kDefaultExamples = 500, kDefaultSeed = 1;
enum Value { kAll, kRight, kAnswers, kNll };

// Examples of one generator: items [n·k, n·(k+1)) of the task.
struct Part {
  std::string label;  ///< of its rows; empty when the task has one part
  std::unique_ptr<TaskGenerator> generator;
};

class Generated final : public EvalTask {
 public:
  Generated(std::string name, const std::string& generator, const Node& node, int64_t limit,
            const TaskModel& model)
      : name_(std::move(name)), evicts_(model.evicts) {
    Node own = Node::map(), theirs = Node::map();
    for (const auto& [key, value] : node.as_map()) {
      const bool ours = key == "n" || key == "query_aware" || key == "marker";
      (ours ? own : theirs).set(key, value);
    }
    NodeReader options(own);
    n_ = options.integer_or("n", kDefaultExamples, 1, int64_t{1} << 40);
    if (limit > 0) n_ = std::min(n_, limit);
    query_aware_ = options.boolean_or("query_aware", false);
    marker_ = options.boolean_or("marker", true);
    if (theirs.find("seed") == nullptr) theirs.set("seed", kDefaultSeed);
    const GeneratorInfo& info = *std::find_if(generators().begin(), generators().end(),
                                              [&](const auto& g) { return g.name == generator; });
    const Tokenizer* tokenizer = info.text ? &model.tokenizer() : nullptr;
    add_parts(generator, theirs, tokenizer);
    for (const Part& part : parts_) check_fits(*part.generator, model);
    settings_ = parts_.front().generator->settings();
    if (parts_.size() > 1) settings_ = make_generator(generator, theirs, tokenizer)->settings();
    // One list of examples may grow; items of several move when it does.
    if (parts_.size() > 1) settings_.set("n", n_);
    settings_.set("query_aware", query_aware_);
    settings_.set("marker", marker_);
  }

  const std::string& name() const override { return name_; }
  Node settings() const override { return settings_; }
  int64_t size() const override { return n_ * std::ssize(parts_); }

  std::vector<ScoreText> texts(int64_t item) const override {
    TaskExample example = make(item);
    ScoreText text;
    text.scored = first_answer(example);
    text.marker = marker_;
    if (evicts_) text.prompt = query_aware_ ? text.scored : example.context;
    text.tokens = std::move(example.tokens);
    // Nothing behind the last answer is asked.
    const auto last = std::find(example.answer.rbegin(), example.answer.rend(), 1);
    text.tokens.resize(static_cast<size_t>(example.answer.rend() - last));
    return {std::move(text)};
  }

  std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const override {
    const TaskExample example = make(item);
    const auto first = static_cast<size_t>(first_answer(example));
    double right = 0, answers = 0, nll = 0;
    for (size_t i = 0; i < scores[0].tokens.size(); ++i) {
      if (!example.answer[first + i]) continue;
      const TokenScore& score = scores[0].tokens[i];
      answers += 1;
      right += score.best == example.tokens[first + i] ? 1 : 0;
      nll -= score.log_p;
    }
    return {right == answers ? 1.0 : 0.0, right, answers, nll};
  }

  std::vector<Metric> metrics() const override {
    std::vector<Metric> out;
    const auto add = [&](const std::string& task, int64_t first, int64_t last) {
      out.push_back({task, "accuracy", first, last, kAll});
      out.push_back({task, "token_accuracy", first, last, kRight, kAnswers});
      out.push_back(
          {task, "token_perplexity", first, last, kNll, kAnswers, Transform::kExp, 1, true});
    };
    add(name_, 0, size());
    if (parts_.size() == 1) return out;
    for (int64_t k = 0; k < std::ssize(parts_); ++k) {
      add(name_ + "/" + parts_[static_cast<size_t>(k)].label, n_ * k, n_ * (k + 1));
    }
    return out;
  }

 private:
  void add_parts(const std::string& generator, const Node& options, const Tokenizer* tokenizer) {
    const Node* config = options.find("config");
    const std::vector<MqarShape>* shapes =
        generator == "mqar" && config != nullptr && config->is_string()
            ? find_mqar_config(config->as_string())
            : nullptr;
    if (shapes == nullptr) {
      parts_.push_back({"", make_generator(generator, options, tokenizer)});
      return;
    }
    make_generator(generator, options, tokenizer);  // what is wrong is named once
    for (const MqarShape& shape : *shapes) {
      Node single = Node::map();
      for (const auto& [key, value] : options.as_map()) {
        if (key != "config") single.set(key, value);
      }
      single.set("length", shape.length);
      single.set("pairs", shape.pairs);
      parts_.push_back({fmt::format("length={},pairs={}", shape.length, shape.pairs),
                        make_generator(generator, single, tokenizer)});
    }
  }

  void check_fits(const TaskGenerator& generator, const TaskModel& model) const {
    require(generator.vocab_size() <= model.vocab_size, ErrorCode::kRequest,
            "its ids reach {}, the model's vocabulary has {}: set vocab", generator.vocab_size(),
            model.vocab_size);
    require(generator.max_tokens() <= model.context_length, ErrorCode::kRequest,
            "texts of {} tokens, the model's context has {}: set length", generator.max_tokens(),
            model.context_length);
  }

  TaskExample make(int64_t item) const {
    return parts_[static_cast<size_t>(item / n_)].generator->example(
        static_cast<uint64_t>(item % n_));
  }
  static int64_t first_answer(const TaskExample& example) {
    const auto first = std::find(example.answer.begin(), example.answer.end(), 1);
    ASHLAR_CHECK(first != example.answer.end());
    return first - example.answer.begin();
  }

  std::string name_;
  Node settings_;
  int64_t n_ = 0;
  bool query_aware_ = false, marker_ = true, evicts_ = false;
  std::vector<Part> parts_;
};

}  // namespace

std::unique_ptr<EvalTask> make_generated(const std::string& name, const std::string& generator,
                                         const Node& options, int64_t limit,
                                         const TaskModel& model) {
  return std::make_unique<Generated>(name, generator, options, limit, model);
}

}  // namespace ashlar

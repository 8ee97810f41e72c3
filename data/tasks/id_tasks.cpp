#include "data/tasks/id_tasks.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/tasks/draws.h"
#include "data/tasks/options.h"
#include "data/tasks/zeta.h"

namespace ashlar {
namespace {

// What these tasks share: tokens, and a question behind the context.
class IdTask : public TaskGenerator {
 public:
  int64_t vocab_size() const override { return vocab_; }
  int64_t max_tokens() const override { return length_; }
  Node settings() const override { return settings_; }

 protected:
  void read_common(TaskOptions& options, int64_t vocab, int64_t length) {
    vocab_ = options.integer("vocab", vocab, kFirstContent + 2, kMostTaskTokens);
    length_ = options.integer("length", length, 3, kMostTaskTokens);
    seed_ = options.seed();
  }
  // The most tokens of the context when question and answer take `behind`.
  int64_t context_room(const TaskOptions& options, int64_t behind, int64_t needed) const {
    if (length_ - behind < needed) {
      options.refuse("length", fmt::format("{} tokens do not hold the task: at least {}", length_,
                                           needed + behind));
    }
    return length_ - behind;
  }

  int32_t content(Draws& draws) const {
    return static_cast<int32_t>(draws.between(kFirstContent, vocab_));
  }
  // Names lie below the middle of the content, values from it on.
  int64_t middle() const { return (kFirstContent + vocab_) / 2; }
  static TaskExample behind(std::vector<int32_t> context) {
    TaskExample out;
    out.context = static_cast<int64_t>(context.size());
    out.tokens = std::move(context);
    return out;
  }
  // `asked`: what names the item that is wanted.
  static void ask(TaskExample& out, std::span<const int32_t> asked,
                  std::span<const int32_t> answer) {
    out.tokens.push_back(kQueryId);
    out.tokens.insert(out.tokens.end(), asked.begin(), asked.end());
    out.answer.resize(out.tokens.size(), 0);
    out.tokens.insert(out.tokens.end(), answer.begin(), answer.end());
    out.answer.resize(out.tokens.size(), 1);
  }
  // `items` in order at random places among random ids, `room` tokens in all.
  std::vector<int32_t> hide(const std::vector<std::vector<int32_t>>& items, int64_t room,
                            Draws& draws) const {
    int64_t filler = room;
    for (const auto& item : items) filler -= std::ssize(item);
    // Places of the items among fillers and items: uniform over all interleavings.
    auto places = draws.distinct(0, filler + std::ssize(items), std::ssize(items));
    std::sort(places.begin(), places.end());
    std::vector<int32_t> out;
    size_t next = 0;
    for (int64_t place = 0; place < filler + std::ssize(items); ++place) {
      if (next < places.size() && places[next] == place) {
        out.insert(out.end(), items[next].begin(), items[next].end());
        ++next;
      } else {
        out.push_back(content(draws));
      }
    }
    return out;
  }

  int64_t vocab_ = 0, length_ = 0;
  uint64_t seed_ = 0;
  Node settings_;
};

class Copy final : public IdTask {
 public:
  explicit Copy(const Node& node) {
    TaskOptions options("copy", node);
    vocab_ = options.integer("vocab", 256, kFirstContent + 2, kMostTaskTokens);
    string_ = options.integer("length", 64, 1, kMostTaskTokens);
    seed_ = options.seed();
    settings_ = options.finish();
    length_ = 2 * string_ + 1;
  }

  TaskExample example(uint64_t index) const override {
    Draws draws(seed_, 0x636f7079, index);
    std::vector<int32_t> text;
    for (int64_t i = 0; i < string_; ++i) text.push_back(content(draws));
    TaskExample out = behind(text);
    ask(out, {}, text);
    return out;
  }

 private:
  int64_t string_ = 0;
};

class NeedlesIds final : public IdTask {
 public:
  explicit NeedlesIds(const Node& node) {
    TaskOptions options("needles_ids", node);
    read_common(options, 256, 256);
    keys_ = options.integer("keys", 4, 1, kMostTaskTokens);
    key_length_ = options.integer("key_length", 2, 1, 64);
    value_length_ = options.integer("value_length", 2, 1, 64);
    queries_ = options.integer("queries", 1, 1, kMostTaskTokens);
    settings_ = options.finish();
    if (queries_ > keys_) {
      options.refuse("queries", fmt::format("{} of {} keys: each is asked once", queries_, keys_));
    }
    const int64_t needle = 1 + key_length_ + value_length_;
    room_ = context_room(options, queries_ * needle, keys_ * needle);
    double kinds = 1;
    for (int64_t i = 0; i < key_length_; ++i) kinds *= static_cast<double>(vocab_ - kFirstContent);
    // Keys are drawn until they differ: half of them free keeps that short.
    if (static_cast<double>(2 * keys_) > kinds) {
      options.refuse("keys", fmt::format("{} different keys of {} ids need a larger vocabulary "
                                         "than {}",
                                         keys_, key_length_, vocab_));
    }
  }

  TaskExample example(uint64_t index) const override {
    Draws draws(seed_, 0x6e65656469, index);
    std::vector<std::vector<int32_t>> needles, known;
    while (std::ssize(needles) < keys_) {
      std::vector<int32_t> key = string(key_length_, draws);
      const auto place = std::lower_bound(known.begin(), known.end(), key);
      if (place != known.end() && *place == key) continue;
      known.insert(place, key);
      std::vector<int32_t> needle = {kNeedleId};
      needle.insert(needle.end(), key.begin(), key.end());
      const auto value = string(value_length_, draws);
      needle.insert(needle.end(), value.begin(), value.end());
      needles.push_back(std::move(needle));
    }
    const auto asked = draws.distinct(0, keys_, queries_);
    TaskExample out = behind(hide(needles, room_, draws));
    for (int64_t needle : asked) {
      const std::span<const int32_t> pair = std::span(needles[static_cast<size_t>(needle)]);
      const auto value = static_cast<size_t>(1 + key_length_);
      ask(out, pair.subspan(1, value - 1), pair.subspan(value));
    }
    return out;
  }

 private:
  std::vector<int32_t> string(int64_t n, Draws& draws) const {
    std::vector<int32_t> out;
    for (int64_t i = 0; i < n; ++i) out.push_back(content(draws));
    return out;
  }

  int64_t keys_ = 0, key_length_ = 0, value_length_ = 0, queries_ = 0, room_ = 0;
};

class VariablesIds final : public IdTask {
 public:
  explicit VariablesIds(const Node& node) {
    TaskOptions options("variables_ids", node);
    read_common(options, 256, 256);
    chains_ = options.integer("chains", 1, 1, kMostTaskTokens);
    hops_ = options.integer("hops", 4, 0, kMostTaskTokens);
    settings_ = options.finish();
    const int64_t names = chains_ * (hops_ + 1);
    room_ = context_room(options, 2 + hops_ + 1, 3 * names);
    if (names > middle() - kFirstContent || chains_ > vocab_ - middle()) {
      options.refuse("vocab", fmt::format("{} is too small for {} names and {} values", vocab_,
                                          names, chains_));
    }
  }

  TaskExample example(uint64_t index) const override {
    Draws draws(seed_, 0x76617269, index);
    const auto names = draws.distinct(kFirstContent, middle(), chains_ * (hops_ + 1));
    const auto values = draws.distinct(middle(), vocab_, chains_);
    // Chains are interleaved at random; each keeps its own order.
    std::vector<int64_t> order;
    for (int64_t c = 0; c < chains_; ++c)
      order.insert(order.end(), static_cast<size_t>(hops_ + 1), c);
    draws.shuffle(order);
    std::vector<int64_t> next(static_cast<size_t>(chains_), 0);
    std::vector<std::vector<int32_t>> assignments;
    for (int64_t c : order) {
      const int64_t hop = next[static_cast<size_t>(c)]++;
      const auto name = static_cast<size_t>(c * (hops_ + 1) + hop);
      const int64_t from = hop == 0 ? values[static_cast<size_t>(c)] : names[name - 1];
      assignments.push_back(
          {kNeedleId, static_cast<int32_t>(names[name]), static_cast<int32_t>(from)});
    }
    TaskExample out = behind(hide(assignments, room_, draws));
    const std::vector<int32_t> asked = {static_cast<int32_t>(values[0])};
    std::vector<int32_t> answer;
    for (int64_t h = 0; h <= hops_; ++h) {
      answer.push_back(static_cast<int32_t>(names[static_cast<size_t>(h)]));
    }
    ask(out, asked, answer);
    return out;
  }

 private:
  int64_t chains_ = 0, hops_ = 0, room_ = 0;
};

class FrequentIds final : public IdTask {
 public:
  explicit FrequentIds(const Node& node) {
    TaskOptions options("frequent_ids", node);
    read_common(options, 256, 256);
    alpha_ = options.number("alpha", 2.0, 1.01, 16);
    words_ = options.integer("words", 16, 4, kMostTaskTokens);
    settings_ = options.finish();
    if (words_ > vocab_ - kFirstContent) {
      options.refuse("words", fmt::format("a vocabulary of {} has fewer", vocab_));
    }
    const int64_t room = context_room(options, 1 + kAsked, 1);
    counts_ = zeta_counts(zeta_draws(room, words_, alpha_), words_, alpha_);
    if (!ranked(counts_)) {
      options.refuse("length", fmt::format("{} tokens are too few: the counts of the first words "
                                           "do not differ",
                                           length_));
    }
  }

  TaskExample example(uint64_t index) const override {
    Draws draws(seed_, 0x66726571, index);
    const auto words = draws.distinct(kFirstContent, vocab_, words_);
    std::vector<int32_t> context;
    for (size_t rank = 0; rank < counts_.size(); ++rank) {
      const int32_t id = rank == 0 ? kFillerId : static_cast<int32_t>(words[rank]);
      context.insert(context.end(), static_cast<size_t>(counts_[rank]), id);
    }
    draws.shuffle(context);
    TaskExample out = behind(std::move(context));
    const std::vector<int32_t> answer(words.begin() + 1, words.begin() + 1 + kAsked);
    ask(out, {}, answer);
    return out;
  }

 private:
  double alpha_ = 0;
  int64_t words_ = 0;
  std::vector<int64_t> counts_;  ///< by rank
};

}  // namespace

std::unique_ptr<TaskGenerator> make_copy(const Node& options) {
  return std::make_unique<Copy>(options);
}
std::unique_ptr<TaskGenerator> make_needles_ids(const Node& options) {
  return std::make_unique<NeedlesIds>(options);
}
std::unique_ptr<TaskGenerator> make_variables_ids(const Node& options) {
  return std::make_unique<VariablesIds>(options);
}
std::unique_ptr<TaskGenerator> make_frequent_ids(const Node& options) {
  return std::make_unique<FrequentIds>(options);
}

}  // namespace ashlar

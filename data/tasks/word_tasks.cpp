#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "data/tasks/draws.h"
#include "data/tasks/text_example.h"
#include "data/tasks/text_tasks.h"
#include "data/tasks/words.h"
#include "data/tasks/zeta.h"

namespace ashlar {
namespace {

// RULER's counts change at this length.
constexpr int64_t kLongText = 4096;

class CommonWords final : public TextTask {
 public:
  CommonWords(const Node& node, const Tokenizer& tokenizer) : TextTask(tokenizer) {
    TaskOptions options("common_words", node);
    read_common(options);
    const bool is_long = length_ >= kLongText;
    words_ = options.integer("words", 10, 1, 256);
    common_ = options.integer("common_count", is_long ? 30 : 6, 2, 4096);
    other_ = options.integer("other_count", is_long ? 3 : 1, 1, 4096);
    shots_ = options.integer("shots", 1, 0, 16);
    if (other_ >= common_) {
      options.refuse("other_count", fmt::format("must be less than the common words' {}", common_));
    }
    shot_ = is_long ? Shot{40, 10, 3} : Shot{20, 3, 1};
    shot_.others = std::max<int64_t>(shot_.others - words_, 1);
    finish(options);
  }

 protected:
  int64_t least_units() const override { return 1; }
  int64_t most_units() const override { return word_count() - words_; }

  TextExample build(uint64_t index, int64_t units) const override {
    Draws draws(seed_, 0x63776f72, index);
    TextExample out;
    for (int64_t i = 0; i < shots_; ++i) {
      const TextExample shot = one(shot_.others, shot_.common, shot_.other, draws);
      out.context += shot.context;
      for (const TextPart& part : shot.question) out.context += part.text;
      out.context += "\n\n";
    }
    const TextExample last = one(units, common_, other_, draws);
    out.context += last.context;
    out.question = last.question;
    return out;
  }

 private:
  struct Shot {
    int64_t others = 0, common = 0, other = 0;
  };

  TextExample one(int64_t others, int64_t common, int64_t other, Draws& draws) const {
    const int64_t kinds = words_ + others;
    const int64_t pool = kinds <= single_word_count() ? single_word_count() : word_count();
    const auto ids = draws.distinct(0, pool, kinds);
    std::vector<int64_t> list;
    for (int64_t k = 0; k < kinds; ++k) {
      list.insert(list.end(), static_cast<size_t>(k < words_ ? common : other),
                  ids[static_cast<size_t>(k)]);
    }
    draws.shuffle(list);
    TextExample out;
    out.context = "Below is a numbered list of words. Some stand in it more often than others.\n";
    std::vector<int64_t> found;
    const std::set<int64_t> wanted(ids.begin(), ids.begin() + words_);
    for (size_t i = 0; i < list.size(); ++i) {
      out.context += fmt::format("{}{}. {}", i == 0 ? "" : " ", i + 1, word(list[i]));
      if (wanted.contains(list[i]) && std::find(found.begin(), found.end(), list[i]) == found.end())
        found.push_back(list[i]);
    }
    out.context += "\n";
    out.question = {
        {fmt::format("Question: Which {} words stand most often in the list, in the order "
                     "of their first places? Answer: The {} most common words are",
                     words_, words_),
         false}};
    for (size_t i = 0; i < found.size(); ++i) {
      out.question.push_back({fmt::format(" {}.", i + 1), false});
      out.question.push_back({fmt::format(" {}", word(found[i])), true});
    }
    return out;
  }

  int64_t words_ = 0, common_ = 0, other_ = 0, shots_ = 0;
  Shot shot_;
};

class FrequentWords final : public TextTask {
 public:
  FrequentWords(const Node& node, const Tokenizer& tokenizer) : TextTask(tokenizer) {
    TaskOptions options("frequent_words", node);
    read_common(options);
    alpha_ = options.number("alpha", 2.0, 1.01, 16);
    // RULER has a coded word for every 50 tokens.
    words_ = options.integer("words", std::max<int64_t>(length_ / 50, 8), 5, kMostTaskTokens);
    letters_ = options.integer("letters", 6, 2, 32);
    if (static_cast<double>(2 * words_) > std::pow(26.0, static_cast<double>(letters_))) {
      options.refuse("letters",
                     fmt::format("{} letters make too few words for {}", letters_, words_));
    }
    finish(options);
  }

 protected:
  // From here on the counts of ranks 4 and 5 differ by one at least, those before by more.
  int64_t least_units() const override {
    const double gap = std::pow(4.0, -alpha_) - std::pow(5.0, -alpha_);
    return static_cast<int64_t>(std::ceil(std::riemann_zeta(alpha_) / gap)) + 1;
  }

  TextExample build(uint64_t index, int64_t units) const override {
    Draws draws(seed_, 0x66776f72, index);
    const std::vector<int64_t> counts = zeta_counts(units, words_, alpha_);
    ASHLAR_CHECK(ranked(counts));
    std::set<std::string> known;
    std::vector<std::string> words = {"..."};
    while (std::ssize(words) < words_) {
      std::string word;
      for (int64_t i = 0; i < letters_; ++i) word += static_cast<char>('a' + draws.below(26));
      if (known.insert(word).second) words.push_back(std::move(word));
    }
    std::vector<size_t> text;
    for (size_t rank = 0; rank < counts.size(); ++rank) {
      text.insert(text.end(), static_cast<size_t>(counts[rank]), rank);
    }
    draws.shuffle(text);
    TextExample out;
    out.context = "Below is a text of coded words. Count how often each of them occurs.\n";
    for (size_t i = 0; i < text.size(); ++i) {
      if (i > 0) out.context += " ";
      out.context += words[text[i]];
    }
    out.context += "\n";
    out.question = {
        {"Question: Which three coded words occur most often, the most frequent first? "
         "The dots do not count. Answer: The three most frequent words are",
         false}};
    const std::vector<std::string> asked(words.begin() + 1, words.begin() + 1 + kAsked);
    for (TextPart& part : answer_list(asked)) out.question.push_back(std::move(part));
    return out;
  }

 private:
  double alpha_ = 0;
  int64_t words_ = 0, letters_ = 0;
};

}  // namespace

std::unique_ptr<TaskGenerator> make_common_words(const Node& options, const Tokenizer* tokenizer) {
  return std::make_unique<CommonWords>(options, *tokenizer);
}
std::unique_ptr<TaskGenerator> make_frequent_words(const Node& options,
                                                   const Tokenizer* tokenizer) {
  return std::make_unique<FrequentWords>(options, *tokenizer);
}

}  // namespace ashlar

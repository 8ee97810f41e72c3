#include <set>

#include "core/base/error.h"
#include "data/tasks/draws.h"
#include "data/tasks/text_example.h"
#include "data/tasks/text_tasks.h"

namespace ashlar {
namespace {

class Variables final : public TextTask {
 public:
  Variables(const Node& node, const Tokenizer& tokenizer) : TextTask(tokenizer) {
    TaskOptions options("variables", node);
    read_common(options);
    chains_ = options.integer("chains", 1, 1, 256);
    hops_ = options.integer("hops", 4, 0, 256);
    shots_ = options.integer("shots", 1, 0, 16);
    finish(options);
  }

 protected:
  TextExample build(uint64_t index, int64_t units) const override {
    Draws draws(seed_, 0x76617262, index);
    TextExample out;
    for (int64_t i = 0; i < shots_; ++i) {
      const TextExample shot = one(kShotUnits, kShotLetters, draws);
      out.context += shot.context;
      for (const TextPart& part : shot.question) out.context += part.text;
      out.context += "\n\n";
    }
    const TextExample last = one(units, kLetters, draws);
    out.context += last.context;
    out.question = last.question;
    return out;
  }

 private:
  static constexpr int64_t kLetters = 5, kShotLetters = 3, kShotUnits = 5;

  static std::string new_name(std::set<std::string>& known, int64_t letters, Draws& draws) {
    while (true) {
      std::string name;
      for (int64_t i = 0; i < letters; ++i) name += static_cast<char>('A' + draws.below(26));
      if (known.insert(name).second) return name;
    }
  }

  TextExample one(int64_t units, int64_t letters, Draws& draws) const {
    std::set<std::string> known;
    std::vector<std::vector<std::string>> names(static_cast<size_t>(chains_));
    const auto values = draws.distinct(10000, 100000, chains_);
    std::vector<size_t> order;
    for (size_t c = 0; c < names.size(); ++c) {
      for (int64_t h = 0; h <= hops_; ++h) {
        names[c].push_back(new_name(known, letters, draws));
        order.push_back(c);
      }
    }
    draws.shuffle(order);  // chains are interleaved, each in its own order
    std::vector<size_t> next(names.size(), 0);
    std::vector<std::string> lines;
    for (size_t c : order) {
      const size_t hop = next[c]++;
      lines.push_back(hop == 0 ? fmt::format("VAR {} = {}", names[c][0], values[c])
                               : fmt::format("VAR {} = VAR {}", names[c][hop], names[c][hop - 1]));
    }
    TextExample out;
    out.context =
        "Variables are assigned in the text below. Keep track of their values.\n" +
        hide_in(lines, std::vector<std::string>(static_cast<size_t>(units), kNoise), "\n", draws);
    out.question = {
        {fmt::format("Question: Which variables have the value {}? Answer: In the order "
                     "of the text, the {} variables with the value {} are",
                     values[0], hops_ + 1, values[0]),
         false}};
    for (const std::string& name : names[0]) out.question.push_back({" " + name, true});
    return out;
  }

  int64_t chains_ = 0, hops_ = 0, shots_ = 0;
};

}  // namespace

std::unique_ptr<TaskGenerator> make_variables(const Node& options, const Tokenizer* tokenizer) {
  return std::make_unique<Variables>(options, *tokenizer);
}

}  // namespace ashlar

#include <algorithm>
#include <array>
#include <set>

#include "core/base/error.h"
#include "data/tasks/draws.h"
#include "data/tasks/text_example.h"
#include "data/tasks/text_tasks.h"
#include "data/tasks/words.h"

namespace ashlar {

namespace {

class Passkey final : public TextTask {
 public:
  Passkey(const Node& node, const Tokenizer& tokenizer) : TextTask(tokenizer) {
    TaskOptions options("passkey", node);
    read_common(options);
    digits_ = options.integer("digits", 5, 1, 18);
    depth_ = options.number("depth", -1, -1, 100);
    if (depth_ < 0 && depth_ > -1) options.refuse("depth", "0 to 100 percent, or -1: random");
    finish(options);
  }

 protected:
  TextExample build(uint64_t index, int64_t units) const override {
    Draws draws(seed_, 0x70617373, index);
    std::string key = std::to_string(draws.between(1, 10));
    while (std::ssize(key) < digits_) key += static_cast<char>('0' + draws.below(10));
    const double depth = depth_ < 0 ? draws.uniform() : depth_ / 100;
    const auto before =
        std::min(units, static_cast<int64_t>(depth * static_cast<double>(units + 1)));
    TextExample out;
    out.context = "A pass key is hidden in the text below. Remember it: it will be asked for.\n";
    for (int64_t i = 0; i <= units; ++i) {
      if (i == before) {
        out.context += fmt::format("The pass key is {}. Remember: {} is the pass key.\n", key, key);
      }
      if (i < units) out.context += std::string(kNoise) + "\n";
    }
    out.question = {{"What is the pass key? The pass key is", false}, {" " + key, true}};
    return out;
  }

 private:
  int64_t digits_ = 0;
  double depth_ = -1;
};

enum class Hay { kNoise, kSentences, kNeedles };
enum class Kind { kWords, kNumbers, kUuids };

struct Form {
  Hay hay = Hay::kSentences;
  Kind key = Kind::kWords, value = Kind::kNumbers;
  int64_t keys = 4, values = 1, queries = 1;
};

struct NamedForm {
  std::string_view name;
  Form form;
};

// RULER's settings; its essays are sentences here.
constexpr auto kForms = std::to_array<NamedForm>({
    {"single_1", {Hay::kNoise, Kind::kWords, Kind::kNumbers, 1, 1, 1}},
    {"single_2", {Hay::kSentences, Kind::kWords, Kind::kNumbers, 1, 1, 1}},
    {"single_3", {Hay::kSentences, Kind::kWords, Kind::kUuids, 1, 1, 1}},
    {"multikey_1", {Hay::kSentences, Kind::kWords, Kind::kNumbers, 4, 1, 1}},
    {"multikey_2", {Hay::kNeedles, Kind::kWords, Kind::kNumbers, 1, 1, 1}},
    {"multikey_3", {Hay::kNeedles, Kind::kUuids, Kind::kUuids, 1, 1, 1}},
    {"multivalue", {Hay::kSentences, Kind::kWords, Kind::kNumbers, 1, 4, 1}},
    {"multiquery", {Hay::kSentences, Kind::kWords, Kind::kNumbers, 4, 1, 4}},
});

class Needles final : public TextTask {
 public:
  Needles(const Node& node, const Tokenizer& tokenizer) : TextTask(tokenizer) {
    TaskOptions options("needles", node);
    read_common(options);
    Form start;
    if (options.has("config")) {
      std::vector<std::string_view> names;
      for (const NamedForm& form : kForms) names.push_back(form.name);
      start = kForms[options.choice("config", 0, names)].form;
    }
    const std::vector<std::string_view> kinds = {"words", "numbers", "uuids"};
    form_.hay = static_cast<Hay>(options.choice("haystack", static_cast<size_t>(start.hay),
                                                {"noise", "sentences", "needles"}));
    form_.key = static_cast<Kind>(options.choice("key", static_cast<size_t>(start.key), kinds));
    form_.value =
        static_cast<Kind>(options.choice("value", static_cast<size_t>(start.value), kinds));
    form_.keys = options.integer("keys", start.keys, 1, 4096);
    form_.values = options.integer("values", start.values, 1, 64);
    form_.queries = options.integer("queries", start.queries, 1, 4096);
    if (form_.queries > form_.keys) {
      options.refuse("queries", fmt::format("more than the {} keys", form_.keys));
    }
    finish(options);
  }

 protected:
  // Keys are drawn until they differ: words are half used at most.
  int64_t most_units() const override {
    return form_.hay == Hay::kNeedles && form_.key == Kind::kWords ? word_count() / 2 - form_.keys
                                                                   : kMostTaskTokens;
  }

  TextExample build(uint64_t index, int64_t units) const override {
    Draws draws(seed_, 0x6e65656479, index);
    std::set<std::string> known;
    std::vector<std::string> keys;
    std::vector<std::pair<size_t, std::string>> needles;  // key, value
    for (int64_t k = 0; k < form_.keys; ++k) {
      keys.push_back(new_key(known, draws));
      for (int64_t v = 0; v < form_.values; ++v) {
        needles.emplace_back(static_cast<size_t>(k), make(form_.value, draws));
      }
    }
    draws.shuffle(needles);
    std::vector<std::string> lines, hay;
    for (const auto& [key, value] : needles) lines.push_back(line(keys[key], value));
    const auto asked = draws.distinct(0, form_.keys, form_.queries);
    for (int64_t i = 0; i < units; ++i) hay.push_back(straw(known, draws));
    TextExample out;
    out.context = fmt::format(
        "Secret {} are hidden in the text below. Remember them: they will be "
        "asked for.\n",
        plural());
    out.context += hide_in(lines, hay, form_.hay == Hay::kSentences ? " " : "\n", draws);
    if (form_.hay == Hay::kSentences) out.context.back() = '\n';
    std::vector<std::string> names, answers;
    for (int64_t key : asked) {
      names.push_back(keys[static_cast<size_t>(key)]);
      for (const auto& [owner, value] : needles) {
        if (owner == static_cast<size_t>(key)) answers.push_back(value);
      }
    }
    out.question = ask(names, answers);
    return out;
  }

 private:
  const char* plural() const {
    constexpr std::array kNames = {"words", "numbers", "codes"};
    return kNames[static_cast<size_t>(form_.value)];
  }
  const char* singular() const {
    constexpr std::array kNames = {"word", "number", "code"};
    return kNames[static_cast<size_t>(form_.value)];
  }
  static std::string make(Kind kind, Draws& draws) {
    if (kind == Kind::kWords) return random_pair(draws);
    if (kind == Kind::kNumbers) return std::to_string(draws.between(1000000, 10000000));
    // A random UUID (RFC 9562, version 4, variant 10).
    std::string out;
    for (int64_t i = 0; i < 32; ++i) {
      if (i == 8 || i == 12 || i == 16 || i == 20) out += '-';
      const int64_t digit = draws.below(16);
      out += "0123456789abcdef"[i == 12 ? 4 : i == 16 ? 8 + digit % 4 : digit];
    }
    return out;
  }
  std::string new_key(std::set<std::string>& known, Draws& draws) const {
    while (true) {
      std::string key = make(form_.key, draws);
      if (known.insert(key).second) return key;
    }
  }
  std::string line(const std::string& key, const std::string& value) const {
    return fmt::format("A secret {} of {} is {}.", singular(), key, value);
  }
  std::string straw(std::set<std::string>& known, Draws& draws) const {
    if (form_.hay == Hay::kNoise) return kNoise;
    if (form_.hay == Hay::kSentences) return random_sentence(draws);
    const std::string key = new_key(known, draws);
    return line(key, make(form_.value, draws));
  }
  std::vector<TextPart> ask(const std::vector<std::string>& names,
                            const std::vector<std::string>& answers) const {
    std::string list;
    for (const TextPart& part : answer_list(names)) list += part.text;
    const bool one = answers.size() == 1;
    std::vector<TextPart> out = {
        {one ? fmt::format("What is the secret {} of{}? The secret {} of{} is", singular(), list,
                           singular(), list)
             : fmt::format(
                   "What are all the secret {} of{}, in this order and then in the order of "
                   "the text? They are",
                   plural(), list),
         false}};
    for (TextPart& part : answer_list(answers)) out.push_back(std::move(part));
    return out;
  }

  Form form_;
};

}  // namespace

std::unique_ptr<TaskGenerator> make_passkey(const Node& options, const Tokenizer* tokenizer) {
  return std::make_unique<Passkey>(options, *tokenizer);
}
std::unique_ptr<TaskGenerator> make_needles(const Node& options, const Tokenizer* tokenizer) {
  return std::make_unique<Needles>(options, *tokenizer);
}

}  // namespace ashlar

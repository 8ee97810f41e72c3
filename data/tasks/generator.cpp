#include "data/tasks/generator.h"

#include "core/base/error.h"
#include "data/tasks/id_tasks.h"
#include "data/tasks/mqar.h"
#include "data/tasks/text_tasks.h"

namespace ashlar {
namespace {

struct Entry {
  GeneratorInfo info;
  std::unique_ptr<TaskGenerator> (*make)(const Node& options, const Tokenizer* tokenizer);
};

template <std::unique_ptr<TaskGenerator> (*kMake)(const Node&)>
std::unique_ptr<TaskGenerator> on_ids(const Node& options, const Tokenizer*) {
  return kMake(options);
}

const std::vector<Entry>& entries() {
  static const std::vector<Entry> list = {
      {{"mqar", "multi-query associative recall on bare ids: length, pairs, vocab, config"},
       on_ids<make_mqar>},
      {{"copy", "a string of bare ids and the same string again: what no cache may forget"},
       on_ids<make_copy>},
      {{"needles_ids", "needles on bare ids: keys, key_length, value_length, queries"},
       on_ids<make_needles_ids>},
      {{"variables_ids", "variable tracking on bare ids: chains, hops"},
       on_ids<make_variables_ids>},
      {{"frequent_ids", "the three most frequent of bare ids: words, alpha"},
       on_ids<make_frequent_ids>},
      {{"passkey", "one number in repeated sentences: length, depth, digits", true}, make_passkey},
      {{"needles", "needles in a haystack as in RULER: length, config, keys, values, queries",
        true},
       make_needles},
      {{"variables", "variable tracking as in RULER: length, chains, hops", true}, make_variables},
      {{"common_words", "the most common words of a list as in RULER: length, words", true},
       make_common_words},
      {{"frequent_words", "the three most frequent coded words as in RULER: length, alpha", true},
       make_frequent_words},
  };
  return list;
}

}  // namespace

TaskGenerator::~TaskGenerator() = default;

const std::vector<GeneratorInfo>& generators() {
  static const std::vector<GeneratorInfo> list = [] {
    std::vector<GeneratorInfo> out;
    for (const Entry& entry : entries()) out.push_back(entry.info);
    return out;
  }();
  return list;
}

std::vector<std::string> generator_names() {
  std::vector<std::string> names;
  for (const GeneratorInfo& info : generators()) names.push_back(info.name);
  return names;
}

std::unique_ptr<TaskGenerator> make_generator(const std::string& name, const Node& options,
                                              const Tokenizer* tokenizer) {
  for (const Entry& entry : entries()) {
    if (entry.info.name != name) continue;
    require(!entry.info.text || tokenizer != nullptr, ErrorCode::kRequest,
            "task '{}' is made of text: it needs a model with a tokenizer", name);
    return entry.make(options.is_null() ? Node::map() : options, tokenizer);
  }
  std::string known;
  for (const std::string& other : generator_names()) known += (known.empty() ? "" : ", ") + other;
  fail(ErrorCode::kRequest, "task '{}' is not one of {}", name, known);
}

}  // namespace ashlar

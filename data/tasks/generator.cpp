#include "data/tasks/generator.h"

#include "core/base/error.h"
#include "data/tasks/mqar.h"

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

#include "data/tokenizer/hf_nodes.h"

namespace ashlar {
namespace {

Node template_part(const char* kind, const std::string& id, int type) {
  return Node::Map{{kind, Node::Map{{"id", id}, {"type_id", type}}}};
}

}  // namespace

Node typed_node(const char* type) { return Node::Map{{"type", type}}; }

Node sequence_node(const char* key, Node::List steps) {
  Node node = typed_node("Sequence");
  node.set(key, Node(std::move(steps)));
  return node;
}

Node template_node(const std::vector<HfSpecialToken>& before,
                   const std::vector<HfSpecialToken>& behind) {
  if (before.empty() && behind.empty()) return nullptr;
  Node single = Node::list(), special = Node::map();
  for (const auto& token : before) single.push(template_part("SpecialToken", token.second, 0));
  single.push(template_part("Sequence", "A", 0));
  for (const auto& token : behind) single.push(template_part("SpecialToken", token.second, 0));
  Node pair = single;
  pair.push(template_part("Sequence", "B", 1));
  for (const auto* tokens : {&before, &behind}) {
    for (const auto& [id, content] : *tokens) {
      special.set(
          content,
          Node::Map{{"id", content}, {"ids", Node::List{id}}, {"tokens", Node::List{content}}});
    }
  }
  Node node = typed_node("TemplateProcessing");
  node.set("single", std::move(single));
  node.set("pair", std::move(pair));
  node.set("special_tokens", std::move(special));
  return node;
}

}  // namespace ashlar

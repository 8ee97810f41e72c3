#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/io/json.h"

// The tokenizer.json files of tests/golden/tokenizer_families.json.
namespace ashlar::test_families {

inline const Node& golden() {
  static const Node node = load_json("tests/golden/tokenizer_families.json");
  return node;
}

inline const Node& family(const std::string& name) {
  return *golden().find("families")->find(name);
}
inline const Node& base_of(const std::string& name) {
  return *golden().find("bases")->find(family(name).find("base")->as_string());
}

inline std::vector<int32_t> ids_of(const Node& list) {
  std::vector<int32_t> ids;
  for (const Node& id : list.as_list()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

/// The family's tokenizer.json, whole.
inline Node shape_of(const std::string& name) {
  Node root = family(name).find("shape")[0];
  Node* model = root.find("model");
  Node vocab = Node::map();
  const Node::List& tokens = base_of(name).find("vocab")->as_list();
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocab.set(tokens[id].as_string(), static_cast<int64_t>(id));
  }
  model->set("vocab", std::move(vocab));
  model->set("merges", *base_of(name).find("merges"));
  return root;
}

}  // namespace ashlar::test_families

#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"

namespace ashlar {
namespace {

Node typed(const char* type) {
  Node node = Node::map();
  node.set("type", type);
  return node;
}

Node byte_level_step(bool prefix_space, bool use_regex) {
  Node node = typed("ByteLevel");
  node.set("add_prefix_space", prefix_space);
  node.set("trim_offsets", true);
  node.set("use_regex", use_regex);
  return node;
}

Node sequence(const char* key, Node::List steps) {
  Node node = typed("Sequence");
  node.set(key, Node(std::move(steps)));
  return node;
}

Node added_tokens(const BpeVocabulary& vocabulary) {
  Node list = Node::list();
  for (const AddedToken& token : vocabulary.added) {
    Node node = Node::map();
    node.set("id", token.id);
    node.set("content", token.content);
    node.set("single_word", false);
    node.set("lstrip", token.lstrip);
    node.set("rstrip", token.rstrip);
    node.set("normalized", token.normalized);
    node.set("special", token.special);
    list.push(std::move(node));
  }
  return list;
}

Node model(const BpeVocabulary& vocabulary) {
  Node node = typed("BPE");
  node.set("dropout", nullptr);
  node.set("unk_token", nullptr);
  node.set("continuing_subword_prefix", nullptr);
  node.set("end_of_word_suffix", nullptr);
  node.set("fuse_unk", false);
  node.set("byte_fallback", !vocabulary.byte_level);
  node.set("ignore_merges", vocabulary.ignore_merges);
  Node::Map vocab;  // filled directly: set() looks for an equal key each time
  for (size_t id = 0; id < vocabulary.spelling.size(); ++id) {
    if (vocabulary.present[id]) {
      vocab.emplace_back(vocabulary.spelling[id], Node(static_cast<int64_t>(id)));
    }
  }
  node.set("vocab", Node(std::move(vocab)));
  Node merges = Node::list();
  for (const BpeModel::Merge& merge : vocabulary.merges) {
    Node pair = Node::list();
    pair.push(vocabulary.spelling[static_cast<size_t>(merge.left)]);
    pair.push(vocabulary.spelling[static_cast<size_t>(merge.right)]);
    merges.push(std::move(pair));
  }
  node.set("merges", std::move(merges));
  return node;
}

Node pattern(const char* kind, const std::string& text) {
  Node node = Node::map();
  node.set(kind, text);
  return node;
}

Node normalizer(const BpeVocabulary& vocabulary) {
  Node::List steps;
  for (const NormalizerStep& step : vocabulary.normalizers) {
    if (step.kind == NormalizerStep::Kind::kForm) {
      constexpr const char* kForms[] = {"NFC", "NFD", "NFKC", "NFKD"};
      steps.push_back(typed(kForms[static_cast<size_t>(step.form)]));
    } else if (step.kind == NormalizerStep::Kind::kPrepend) {
      Node node = typed("Prepend");
      node.set("prepend", step.to);
      steps.push_back(std::move(node));
    } else {
      Node node = typed("Replace");
      node.set("pattern", pattern("String", step.from));
      node.set("content", step.to);
      steps.push_back(std::move(node));
    }
  }
  if (steps.empty()) return nullptr;
  return steps.size() == 1 ? std::move(steps[0]) : sequence("normalizers", std::move(steps));
}

Node split_node(const SplitStep& step) {
  Node node = typed("Split");
  node.set("pattern", pattern("Regex", step.regex));
  node.set("behavior", step.matches_only ? "Removed" : "Isolated");
  node.set("invert", step.matches_only);
  return node;
}

Node pre_tokenizer(const BpeVocabulary& vocabulary) {
  if (vocabulary.metaspace) {
    ASHLAR_CHECK(!vocabulary.byte_level && vocabulary.splits.empty());
    constexpr const char* kSchemes[] = {"always", "first", "never"};
    Node node = typed("Metaspace");
    node.set("replacement", vocabulary.metaspace->replacement);
    node.set("prepend_scheme", kSchemes[static_cast<size_t>(vocabulary.metaspace->prepend)]);
    node.set("split", vocabulary.metaspace->split);
    return node;
  }
  Node::List steps;
  for (size_t i = 0; i < vocabulary.splits.size(); ++i) {
    const SplitStep& step = vocabulary.splits[i];
    if (vocabulary.byte_level && i + 1 == vocabulary.splits.size()) {
      ASHLAR_CHECK(!step.matches_only && (step.regex.empty() || step.regex == kGpt2Pattern));
      steps.push_back(byte_level_step(step.prefix_space, !step.regex.empty()));
    } else {
      ASHLAR_CHECK(!step.prefix_space);
      steps.push_back(split_node(step));
    }
  }
  ASHLAR_CHECK(!vocabulary.byte_level || !steps.empty());
  if (steps.empty()) return nullptr;
  return steps.size() == 1 ? std::move(steps[0]) : sequence("pretokenizers", std::move(steps));
}

Node decoder(const BpeVocabulary& vocabulary) {
  if (vocabulary.byte_level) return byte_level_step(false, true);
  Node::List steps;
  if (!vocabulary.decode_from.empty()) {
    Node replace = typed("Replace");
    replace.set("pattern", pattern("String", vocabulary.decode_from));
    replace.set("content", vocabulary.decode_to);
    steps.push_back(std::move(replace));
  }
  steps.push_back(typed("ByteFallback"));
  steps.push_back(typed("Fuse"));
  if (vocabulary.strip_leading_space) {
    Node strip = typed("Strip");
    strip.set("content", " ");
    strip.set("start", 1);
    strip.set("stop", 0);
    steps.push_back(std::move(strip));
  }
  return sequence("decoders", std::move(steps));
}

Node special_part(const BpeVocabulary& vocabulary, int32_t id) {
  Node token = Node::map();
  token.set("id", vocabulary.spelling[static_cast<size_t>(id)]);
  token.set("type_id", 0);
  Node part = Node::map();
  part.set("SpecialToken", std::move(token));
  return part;
}

Node post_processor(const BpeVocabulary& vocabulary) {
  if (vocabulary.prefix.empty() && vocabulary.suffix.empty()) return nullptr;
  const auto text = [](const char* id, int type) {
    Node body = Node::map();
    body.set("id", id);
    body.set("type_id", type);
    Node part = Node::map();
    part.set("Sequence", std::move(body));
    return part;
  };
  Node single = Node::list(), pair = Node::list(), special = Node::map();
  for (int32_t id : vocabulary.prefix) single.push(special_part(vocabulary, id));
  single.push(text("A", 0));
  for (int32_t id : vocabulary.suffix) single.push(special_part(vocabulary, id));
  for (const Node& part : single.as_list()) pair.push(part);
  pair.push(text("B", 1));
  for (const std::vector<int32_t>* ids : {&vocabulary.prefix, &vocabulary.suffix}) {
    for (int32_t id : *ids) {
      const std::string& content = vocabulary.spelling[static_cast<size_t>(id)];
      Node entry = Node::map(), entry_ids = Node::list(), tokens = Node::list();
      entry_ids.push(id);
      tokens.push(content);
      entry.set("id", content);
      entry.set("ids", std::move(entry_ids));
      entry.set("tokens", std::move(tokens));
      special.set(content, std::move(entry));
    }
  }
  Node node = typed("TemplateProcessing");
  node.set("single", std::move(single));
  node.set("pair", std::move(pair));
  node.set("special_tokens", std::move(special));
  return node;
}

}  // namespace

std::string write_hf_tokenizer(const BpeVocabulary& vocabulary) {
  Node root = Node::map();
  root.set("version", "1.0");
  root.set("truncation", nullptr);
  root.set("padding", nullptr);
  root.set("added_tokens", added_tokens(vocabulary));
  root.set("normalizer", normalizer(vocabulary));
  root.set("pre_tokenizer", pre_tokenizer(vocabulary));
  root.set("post_processor", post_processor(vocabulary));
  root.set("decoder", decoder(vocabulary));
  root.set("model", model(vocabulary));
  return write_json(root, 2) + "\n";
}

}  // namespace ashlar

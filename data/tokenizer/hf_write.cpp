#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/hf_nodes.h"

namespace ashlar {
namespace {

Node byte_level_step(bool prefix_space, bool use_regex) {
  Node node = typed_node("ByteLevel");
  node.set("add_prefix_space", prefix_space);
  node.set("trim_offsets", true);
  node.set("use_regex", use_regex);
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
  Node node = typed_node("BPE");
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
      steps.push_back(typed_node(kForms[static_cast<size_t>(step.form)]));
    } else if (step.kind == NormalizerStep::Kind::kPrepend) {
      Node node = typed_node("Prepend");
      node.set("prepend", step.to);
      steps.push_back(std::move(node));
    } else {
      Node node = typed_node("Replace");
      node.set("pattern", pattern("String", step.from));
      node.set("content", step.to);
      steps.push_back(std::move(node));
    }
  }
  if (steps.empty()) return nullptr;
  return steps.size() == 1 ? std::move(steps[0]) : sequence_node("normalizers", std::move(steps));
}

Node split_node(const SplitStep& step) {
  Node node = typed_node("Split");
  node.set("pattern", pattern("Regex", step.regex));
  node.set("behavior", step.matches_only ? "Removed" : "Isolated");
  node.set("invert", step.matches_only);
  return node;
}

Node pre_tokenizer(const BpeVocabulary& vocabulary) {
  if (vocabulary.metaspace) {
    ASHLAR_CHECK(!vocabulary.byte_level && vocabulary.splits.empty());
    constexpr const char* kSchemes[] = {"always", "first", "never"};
    Node node = typed_node("Metaspace");
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
  return steps.size() == 1 ? std::move(steps[0]) : sequence_node("pretokenizers", std::move(steps));
}

Node decoder(const BpeVocabulary& vocabulary) {
  if (vocabulary.byte_level) return byte_level_step(false, true);
  Node::List steps;
  if (!vocabulary.decode_from.empty()) {
    Node replace = typed_node("Replace");
    replace.set("pattern", pattern("String", vocabulary.decode_from));
    replace.set("content", vocabulary.decode_to);
    steps.push_back(std::move(replace));
  }
  steps.push_back(typed_node("ByteFallback"));
  steps.push_back(typed_node("Fuse"));
  if (vocabulary.strip_leading_space) {
    Node strip = typed_node("Strip");
    strip.set("content", " ");
    strip.set("start", 1);
    strip.set("stop", 0);
    steps.push_back(std::move(strip));
  }
  return sequence_node("decoders", std::move(steps));
}

Node post_processor(const BpeVocabulary& vocabulary) {
  const auto named = [&](const std::vector<int32_t>& ids) {
    std::vector<HfSpecialToken> out;
    for (int32_t id : ids) out.emplace_back(id, vocabulary.spelling[static_cast<size_t>(id)]);
    return out;
  };
  return template_node(named(vocabulary.prefix), named(vocabulary.suffix));
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

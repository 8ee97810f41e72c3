#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"

namespace ashlar {
namespace {

Node byte_level_step() {
  Node node = Node::map();
  node.set("type", "ByteLevel");
  node.set("add_prefix_space", false);
  node.set("trim_offsets", true);
  node.set("use_regex", true);
  return node;
}

Node typed(const char* type) {
  Node node = Node::map();
  node.set("type", type);
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
  node.set("ignore_merges", false);
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

Node strip_one_space() {
  Node strip = typed("Strip");
  strip.set("content", " ");
  strip.set("start", 1);
  strip.set("stop", 0);
  return strip;
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
  if (vocabulary.byte_level) {
    ASHLAR_CHECK(vocabulary.normalizers.empty());
    root.set("normalizer", nullptr);
    root.set("pre_tokenizer", byte_level_step());
    root.set("post_processor", post_processor(vocabulary));
    root.set("decoder", byte_level_step());
  } else {
    ASHLAR_CHECK_EQ(vocabulary.normalizers.size(), size_t{1});
    ASHLAR_CHECK(vocabulary.normalizers[0].kind == NormalizerStep::Kind::kPrepend);
    ASHLAR_CHECK(vocabulary.strip_leading_space && vocabulary.decode_from.empty());
    Node prepend = typed("Prepend");
    prepend.set("prepend", vocabulary.normalizers[0].to);
    root.set("normalizer", std::move(prepend));
    root.set("pre_tokenizer", nullptr);
    root.set("post_processor", post_processor(vocabulary));
    root.set("decoder",
             sequence("decoders", {typed("ByteFallback"), typed("Fuse"), strip_one_space()}));
  }
  root.set("model", model(vocabulary));
  return write_json(root, 2) + "\n";
}

}  // namespace ashlar

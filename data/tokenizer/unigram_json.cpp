#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/base64.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_nodes.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/unigram_tokenizer.h"

namespace ashlar {
namespace {

constexpr const char* kModelKey = "sentencepiece";

Node replace(const char* kind, const std::string& from, const std::string& to) {
  Node pattern = Node::map();
  pattern.set(kind, from);
  Node node = typed_node("Replace");
  node.set("pattern", std::move(pattern));
  node.set("content", to);
  return node;
}

/// SentencePiece puts its space in front even of a text that begins with one, so it is Prepend and
/// not Metaspace, which would not.
Node normalizer(const SpmNormalizerSpec& spec) {
  Node steps = Node::list();
  if (!spec.charsmap.empty()) {
    Node node = typed_node("Precompiled");
    node.set("precompiled_charsmap", to_base64(spec.charsmap));
    steps.push(std::move(node));
  }
  if (spec.remove_spaces) {
    Node node = typed_node("Strip");
    node.set("strip_left", true);
    node.set("strip_right", true);
    steps.push(std::move(node));
    steps.push(replace("Regex", " {2,}", " "));
  }
  if (spec.dummy_prefix) {
    Node node = typed_node("Prepend");
    node.set("prepend", spec.escape_spaces ? kWordStart : " ");
    steps.push(std::move(node));
  }
  if (spec.escape_spaces) steps.push(replace("String", " ", kWordStart));
  return sequence_node("normalizers", std::move(steps.as_list()));
}

Node decoder(const UnigramVocabulary& vocabulary) {
  Node steps = Node::list();
  steps.push(replace("String", kWordStart, " "));
  if (vocabulary.byte_fallback) steps.push(typed_node("ByteFallback"));
  steps.push(typed_node("Fuse"));
  if (vocabulary.normalizer.escape_spaces && vocabulary.normalizer.dummy_prefix) {
    Node strip = typed_node("Strip");
    strip.set("content", " ");
    strip.set("start", 1);
    strip.set("stop", 0);
    steps.push(std::move(strip));
  }
  return sequence_node("decoders", std::move(steps.as_list()));
}

Node added_tokens(const UnigramVocabulary& vocabulary) {
  Node list = Node::list();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const SpmVocabulary::Piece& piece = vocabulary.pieces[id];
    const bool defined = piece.kind == SpmKind::kUserDefined;
    const bool special = piece.kind == SpmKind::kControl || piece.kind == SpmKind::kUnknown;
    if (!defined && !special) continue;
    Node node = Node::map();
    node.set("id", static_cast<int64_t>(id));
    node.set("content", piece.text);
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) node.set(key, false);
    node.set("special", special);
    list.push(std::move(node));
  }
  return list;
}

Node post_processor(const UnigramVocabulary& vocabulary) {
  if (!vocabulary.bos) return nullptr;
  return template_node(
      {{*vocabulary.bos, vocabulary.pieces[static_cast<size_t>(*vocabulary.bos)].text}}, {});
}

Node model_node(const UnigramVocabulary& vocabulary, std::string_view model) {
  Node node = typed_node("Unigram");
  Node vocab = Node::list();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const SpmVocabulary::Piece& piece = vocabulary.pieces[id];
    if (piece.kind == SpmKind::kUnknown) node.set("unk_id", static_cast<int64_t>(id));
    Node pair = Node::list();
    pair.push(piece.text);
    pair.push(static_cast<double>(piece.score));
    vocab.push(std::move(pair));
  }
  node.set("vocab", std::move(vocab));
  node.set("byte_fallback", vocabulary.byte_fallback);
  node.set(kModelKey, to_base64(model));
  return node;
}

}  // namespace

std::string write_unigram_json(const UnigramVocabulary& vocabulary, std::string_view model) {
  Node root = Node::map();
  root.set("version", "1.0");
  root.set("truncation", nullptr);
  root.set("padding", nullptr);
  root.set("added_tokens", added_tokens(vocabulary));
  root.set("normalizer", normalizer(vocabulary.normalizer));
  root.set("pre_tokenizer", nullptr);
  root.set("post_processor", post_processor(vocabulary));
  root.set("decoder", decoder(vocabulary));
  root.set("model", model_node(vocabulary, model));
  return write_json(root, 2) + "\n";
}

bool is_unigram_json(const Node& root) {
  const Node* model = root.is_map() ? root.find("model") : nullptr;
  const Node* type = model != nullptr && model->is_map() ? model->find("type") : nullptr;
  return type != nullptr && type->is_string() && type->as_string() == "Unigram";
}

std::unique_ptr<Tokenizer> parse_unigram_json(const Node& root, const std::string& text,
                                              const std::string& file) {
  const Node* whole = root.find("model")->find(kModelKey);
  require(whole != nullptr && whole->is_string(), ErrorCode::kData,
          "{}: model: type 'Unigram' is not supported without the SentencePiece model in "
          "model.sentencepiece; the .model file itself is read",
          file);
  const std::optional<std::string> bytes = from_base64(whole->as_string());
  require(bytes.has_value(), ErrorCode::kData, "{}: model.sentencepiece is not base64", file);
  std::unique_ptr<Tokenizer> tokenizer = parse_sentencepiece(*bytes, file);
  require(tokenizer->json() == text, ErrorCode::kData,
          "{}: the file was changed: it no longer says what model.sentencepiece says", file);
  return tokenizer;
}

}  // namespace ashlar
